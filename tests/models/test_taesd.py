from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tocsr.models.taesd import TinyAutoencoder
from tocsr.models.vae import decode, encode, reconstruct

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture
def make_files(tmp_path):
    def make(**settings):
        vae = TinyAutoencoder(**settings)
        files = tmp_path / "encoder.safetensors", tmp_path / "decoder.safetensors"
        for half, file in zip((vae.encoder, vae.decoder), files, strict=True):
            save_file(half.state_dict(), file)
        return vae.eval(), files

    return make


@pytest.mark.parametrize("channels", [4, 16, 32])
@pytest.mark.parametrize("pooled", [False, True])
def test_two_weight_files_make_the_network_they_came_from(make_files, channels, pooled):
    vae, files = make_files(latent_channels=channels, width=8, pooled=pooled)
    loaded = TinyAutoencoder.from_files(*files)
    assert torch.equal(loaded(IMAGES), vae(IMAGES))
    assert encode(loaded, IMAGES).shape == (2, channels, 4, 6)


def test_files_of_half_precision_load_as_float32(make_files):
    _, files = make_files(latent_channels=4, width=8, pooled=False)
    for file in files:
        save_file({k: v.half() for k, v in load_file(file).items()}, file)
    assert {p.dtype for p in TinyAutoencoder.from_files(*files).parameters()} == {torch.float32}


def test_a_saved_folder_loads_bitwise(make_files, tmp_path):
    vae, _ = make_files(latent_channels=4, width=8, pooled=True)
    vae.save_pretrained(tmp_path / "vae")
    loaded = TinyAutoencoder.from_pretrained(tmp_path / "vae").eval()
    assert torch.equal(decode(loaded, encode(loaded, IMAGES)), vae(IMAGES))


def test_pooling_sees_the_whole_image_and_its_absence_does_not():
    torch.manual_seed(0)
    changed = torch.zeros(1, 4, 24, 24)
    changed[..., 0, 0] = 1
    for pooled in (False, True):
        vae = TinyAutoencoder(latent_channels=4, width=8, pooled=pooled).eval()
        difference = decode(vae, changed) - decode(vae, torch.zeros_like(changed))
        assert bool(difference[..., -8:, -8:].abs().max() > 0) == pooled


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs taef2's weights and the Kodak photos")
def test_taef2_restores_a_photo_as_well_as_it_is_known_to():
    from tocsr.data.images import to_tensor
    from tocsr.data.sources import Photo, read_photo

    weights = SHARED / "weights"
    vae = TinyAutoencoder.from_files(
        weights / "taef2_encoder.safetensors", weights / "taef2_decoder.safetensors"
    )
    image = to_tensor(read_photo(Photo(SHARED / "data/eval/kodak24/09.webp")))[None]
    with torch.no_grad():
        restored = reconstruct(vae, image)[1].clamp(-1, 1)
    error = (restored - image).square().mean() / 4
    assert -10 * torch.log10(error) > 32
