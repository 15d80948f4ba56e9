"""Base networks from wherever they are published, and what is said when they are not there."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from huggingface_hub import constants
from original_layout import unet_to_original, vae_to_original
from safetensors.torch import save_file
from torch import nn

from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json, write_json
from tocsr.models.folders import WEIGHTS, load_unet, load_vae
from tocsr.models.vae import encode, latents_to_pixels, pixels_to_latents, reconstruct

IMAGES = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
# Stable Diffusion's and FLUX's own blocks at the least width
UNET = {
    "sample_size": 8,
    "block_out_channels": [8, 12, 16, 16],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}
VAE = {
    "latent_channels": 4,
    "block_out_channels": [8, 8, 12, 12],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
FLUX = {
    **VAE,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@pytest.fixture(scope="module")
def stock() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(**VAE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def flux() -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(**FLUX).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipeline(stock, vae, tmp_path_factory):
    """A pipeline's folder, as `hf download` leaves it."""
    root = tmp_path_factory.mktemp("sd")
    stock.save_pretrained(root / "unet")
    vae.save_pretrained(root / "vae")
    return root


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset whose networks are those above."""
    folder = tmp_path_factory.mktemp("preset")
    write_json(folder / "unet.json", {"base": UNET, "norm": "group", "num_context_tokens": 3})
    write_json(folder / "vae.json", {"_class_name": "AutoencoderKL", **VAE})
    write_json(folder / "vae_teacher.json", {"_class_name": "AutoencoderKL", **FLUX})
    return str(folder)


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    given, wanted = found.state_dict(), expected.state_dict()
    assert given.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(given[name], wanted[name])] == []


def predicted(unet: nn.Module) -> torch.Tensor:
    return unet.requires_grad_(False)(LATENT, torch.tensor([7]), torch.ones(1, 3, 6))


def stock_prediction(stock: UNet2DConditionModel) -> torch.Tensor:
    return stock(LATENT, torch.tensor([7]), encoder_hidden_states=torch.ones(1, 3, 6)).sample


@pytest.mark.parametrize("inside", ["", "unet"], ids=["the pipeline", "its unet"])
def test_a_unet_is_found_in_a_pipelines_folder(inside, pipeline, stock):
    assert torch.equal(predicted(load_unet(pipeline / inside)), stock_prediction(stock))


@pytest.mark.parametrize("inside", ["", "vae"], ids=["the pipeline", "its vae"])
def test_an_autoencoder_is_found_in_a_pipelines_folder(inside, pipeline, vae):
    assert_same_weights(load_vae(str(pipeline / inside)), vae)


@pytest.fixture(scope="module")
def single_file(stock, vae, tmp_path_factory):
    """A whole Stable Diffusion in one file in its authors' layout, as `v1-5-pruned-emaonly`."""
    file = tmp_path_factory.mktemp("single") / "sd.safetensors"
    weights = {
        **unet_to_original(stock.state_dict(), 2),
        **vae_to_original(vae.state_dict(), 4, "first_stage_model."),
        "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.zeros(6),
    }
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return file


def test_a_single_files_unet_is_the_stock_one_bitwise(single_file, preset, stock):
    unet = load_unet(single_file, preset)
    assert torch.equal(predicted(unet), stock_prediction(stock))
    assert unet.context.shape == (1, 3, 6)  # what else the preset says of it


def test_a_single_files_autoencoder_has_the_stock_ones_weights(single_file, preset, vae):
    assert_same_weights(load_vae(single_file, preset), vae)


def test_fluxs_single_file_keeps_weights_scale_and_shift(preset, flux, tmp_path):
    file = tmp_path / "ae.safetensors"
    save_file(vae_to_original(flux.state_dict(), 4, ""), file)
    loaded = load_vae(file, preset, "vae_teacher")
    assert_same_weights(loaded, flux)
    assert (loaded.config.scaling_factor, loaded.config.shift_factor) == (0.3611, 0.1159)


def test_a_flux_folder_keeps_scale_and_shift(flux, tmp_path):
    flux.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    expected = (encode(flux, IMAGES) - 0.1159) * 0.3611
    torch.testing.assert_close(pixels_to_latents(loaded, IMAGES), expected)


def test_a_single_file_that_lacks_the_network_names_the_file(single_file, preset):
    with pytest.raises(TocsrError, match=r"sd\.safetensors does not hold a whole Auto") as caught:
        load_vae(single_file, preset, "vae_teacher")
    assert caught.value.code == ExitCode.MODEL


def test_a_single_file_needs_a_preset_that_describes_it(single_file):
    with pytest.raises(TocsrError, match="can only be an AutoencoderKL"):
        load_vae(single_file, "tiny")


def test_half_precision_files_are_read_as_float32(vae, tmp_path):
    half = AutoencoderKL(**VAE).half()
    half.load_state_dict(vae.state_dict())
    half.save_pretrained(tmp_path, variant="fp16")
    assert not (tmp_path / WEIGHTS).exists()
    loaded = load_vae(tmp_path)
    assert loaded.dtype == torch.float32
    assert_same_weights(loaded, half.float())


def test_shards_are_read(stock, tmp_path):
    stock.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(predicted(load_unet(tmp_path)), stock_prediction(stock))


def test_a_missing_shard_is_named(stock, tmp_path):
    stock.save_pretrained(tmp_path, max_shard_size="100KB")
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(TocsrError, match=f"{tmp_path} has no {last.name}"):
        load_unet(tmp_path)


def test_pickled_weights_are_refused(pipeline, tmp_path):
    shutil.copy(pipeline / "vae" / "config.json", tmp_path)
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(
        TocsrError, match=r"holds diffusion_pytorch_model\.bin, and only safetensors are read"
    ):
        load_vae(tmp_path)


SD_REPO = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_a_missing_unet_says_the_command_that_fetches_it(tmp_path):
    folder = tmp_path / "sd" / "unet"
    with pytest.raises(TocsrError, match=f"{folder} has no config.json") as caught:
        load_unet(folder, "paper")
    assert caught.value.hint == (
        f"run: hf download {SD_REPO} unet/config.json unet/{WEIGHTS} --local-dir {tmp_path / 'sd'}"
    )


def test_the_fetched_files_lie_where_the_load_looks_for_them(pipeline, tmp_path, vae):
    folder = tmp_path / "models"  # not called vae: the files land in a folder below
    with pytest.raises(TocsrError) as caught:
        load_vae(folder, "paper")
    assert caught.value.hint.endswith(f"--local-dir {folder}")
    shutil.copytree(pipeline / "vae", folder / "vae")
    assert_same_weights(load_vae(folder, "paper"), vae)


def test_a_missing_teacher_is_said_to_be_gated(tmp_path):
    with pytest.raises(TocsrError) as caught:
        load_vae(tmp_path / "flux" / "vae", "paper", "vae_teacher")
    assert caught.value.hint == (
        "accept the licence on the page of this gated repository, run hf auth login, then run: "
        f"hf download black-forest-labs/FLUX.1-schnell vae/config.json vae/{WEIGHTS} "
        f"--local-dir {tmp_path / 'flux'}"
    )


def test_a_missing_single_file_says_the_command_too(tmp_path):
    with pytest.raises(TocsrError, match="there is no file") as caught:
        load_unet(tmp_path / "v1-5-pruned-emaonly.safetensors", "paper")
    assert caught.value.hint == (
        f"run: hf download {SD_REPO} v1-5-pruned-emaonly.safetensors --local-dir {tmp_path}"
    )


@pytest.fixture
def offline_hub(pipeline, tmp_path, monkeypatch):
    """A hub cache that holds the pipeline as OWNER/NAME, and no network."""
    repo = tmp_path / "models--owner--name"
    shutil.copytree(pipeline, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("where", ["hf://owner/name", "hf://owner/name/vae"])
def test_a_network_of_the_hub_comes_from_its_cache(where, offline_hub, vae):
    assert_same_weights(load_vae(where), vae)


def test_a_network_that_the_hubs_cache_lacks_says_the_command(offline_hub):
    with pytest.raises(TocsrError, match="cannot fetch owner/other and no copy") as caught:
        load_unet("hf://owner/other/unet")
    assert caught.value.hint.endswith(f"hf download owner/other unet/config.json unet/{WEIGHTS}")


def test_a_hub_name_without_an_owner_is_refused():
    with pytest.raises(TocsrError, match="hf://OWNER/NAME/SUBFOLDER, got hf:/name"):
        load_unet("hf://name")


@pytest.fixture(scope="module")
def tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(3)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        latent_channels=16,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()


@torch.no_grad()
def test_an_autoencoder_tiny_folder_stands_as_a_teacher(tiny_vae, tmp_path):
    tiny_vae.save_pretrained(tmp_path)
    loaded = load_vae(tmp_path)
    latent, image = reconstruct(loaded, IMAGES)
    assert torch.equal(latent, tiny_vae.encode(IMAGES).latents)
    assert torch.equal(image, tiny_vae.decode(latent).sample)
    assert torch.equal(pixels_to_latents(loaded, IMAGES), (latent - 0.25) * 0.5)
    torch.testing.assert_close(latents_to_pixels(loaded, (latent - 0.25) * 0.5), image)


@torch.no_grad()
def test_autoencoder_tiny_takes_images_from_minus_one_to_one(tiny_vae):
    # its layers were trained on [0, 1]; diffusers' classes scale inside
    assert torch.equal(tiny_vae.encode(IMAGES).latents, tiny_vae.encoder.layers((IMAGES + 1) / 2))
    clamped = 3 * torch.tanh(LATENT.repeat(1, 4, 1, 1) / 3)
    expected = 2 * tiny_vae.decoder.layers(clamped) - 1
    assert torch.equal(tiny_vae.decode(LATENT.repeat(1, 4, 1, 1)).sample, expected)


def test_an_unknown_class_is_named(pipeline, tmp_path):
    config = read_json(pipeline / "vae" / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderDC"}))
    with pytest.raises(TocsrError, match="got 'AutoencoderDC'"):
        load_vae(tmp_path)
