import dataclasses

import pytest
import torch
from micro import MICRO, micro_config

from tocsr.data.images import PhotoCrops, batches
from tocsr.models.folders import base_vae
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.vae import pixels_to_latents
from tocsr.train.teacher_latents import fingerprint, teacher_latents


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    vae = base_vae(str(MICRO), "vae_teacher").eval()
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return vae


def config_for(tmp_path, cache):
    config = micro_config("expand-vae", tmp_path)
    return dataclasses.replace(config, cache_teacher=cache)


def first_batch(data, num=8):
    return next(batches(PhotoCrops(data, 0, num), num, [0]))


def test_without_a_cache_the_crops_are_encoded(tmp_path, teacher):
    config = config_for(tmp_path, cache=False)
    target_of, data = teacher_latents(config, teacher)
    batch = first_batch(data)
    assert data == config.data
    assert torch.equal(target_of(batch), pixels_to_latents(teacher, batch.images))


def test_with_a_cache_crops_begin_on_the_grid_of_latents(tmp_path, teacher):
    _, data = teacher_latents(config_for(tmp_path, cache=True), teacher)
    assert all(p.top % 8 == 0 and p.left % 8 == 0 for p in first_batch(data).places)


def test_cached_latents_are_those_of_the_crops_away_from_their_edges(tmp_path, teacher):
    """The micro teacher reaches 1 latent pixel far in all but its 3x3 layers at 1/4 resolution."""
    target_of, data = teacher_latents(config_for(tmp_path, cache=True), teacher)
    data = dataclasses.replace(data, crop=128)
    target_of.side = 128 // 8
    batch = first_batch(data)
    assert {p.mirrored for p in batch.places} == {True, False}
    cached, own = target_of(batch), pixels_to_latents(teacher, batch.images)
    inner = (..., slice(5, -5), slice(5, -5))
    # float16 on disk
    torch.testing.assert_close(cached[inner], own[inner], rtol=2e-3, atol=2e-3)
    assert not torch.allclose(cached, own, rtol=2e-3, atol=2e-3)


def test_each_photo_is_encoded_once_for_each_side_it_is_seen_from(tmp_path, teacher):
    target_of, data = teacher_latents(config_for(tmp_path, cache=True), teacher)
    batch = first_batch(data)
    seen = {(place.file, place.mirrored) for place in batch.places}
    first = target_of(batch)
    files = sorted((tmp_path / "teacher-latents").rglob("*.safetensors"))
    assert len(files) == len(seen)
    written = [file.stat().st_mtime_ns for file in files]
    again, _ = teacher_latents(config_for(tmp_path, cache=True), teacher)
    assert torch.equal(again(batch), first)
    assert [file.stat().st_mtime_ns for file in files] == written


def test_another_teacher_has_another_cache(teacher):
    other = LocalAutoencoder.from_config(teacher.config)
    assert fingerprint(other) != fingerprint(teacher)
    other.load_state_dict(teacher.state_dict())
    assert fingerprint(other) == fingerprint(teacher)
    other.register_to_config(scaling_factor=2.0)
    assert fingerprint(other) != fingerprint(teacher)
