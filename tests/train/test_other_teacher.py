"""The expansion with a teacher whose latents have another number of channels than the student's."""

import pytest
import torch
from micro import micro_config

from tocsr.data.images import PhotoCrops, batches
from tocsr.models.folders import load_latent_map, load_unet, load_vae
from tocsr.models.taesd import TinyAutoencoder
from tocsr.models.vae import encode, pixels_to_latents
from tocsr.train import expand_unet, expand_vae


@pytest.fixture(scope="module")
def expanded(finished_runs, tmp_path_factory):
    """Both phases with a TAESD-like teacher of 24 channels, whose latents are cached."""
    folder = tmp_path_factory.mktemp("other-teacher")
    torch.manual_seed(0)
    TinyAutoencoder(latent_channels=24, width=8).save_pretrained(folder / "teacher")
    base = finished_runs / "pretrain"
    options = [f"--vae={base / 'vae'}", f"--vae_teacher={folder / 'teacher'}"]
    options.append("--cache_teacher=true")
    expand_vae.run(micro_config("expand-vae", folder, *options))
    expand_unet.run(micro_config("expand-unet", folder, *options, f"--unet={base / 'unet'}"))
    return folder


def test_the_student_has_its_own_number_of_channels(expanded):
    assert load_vae(expanded / "expand-unet" / "vae").config.latent_channels == 16
    assert load_unet(expanded / "expand-unet" / "unet").latent_channels == 16


def test_the_map_leads_from_the_students_latents_to_the_teachers(expanded):
    latent_map = load_latent_map(expanded / "expand-vae" / "latent_map")
    data = micro_config("expand-vae", expanded).data
    images = next(batches(PhotoCrops(data, 0, 8), 8, [0])).images
    student, teacher = load_vae(expanded / "expand-vae" / "vae"), load_vae(expanded / "teacher")
    target = pixels_to_latents(teacher, images)
    with torch.no_grad():
        error = (latent_map(encode(student, images)) - target).square().mean()
    assert error < 0.5 * target.var()


def test_the_students_latents_have_unit_variance(expanded):
    vae = load_vae(expanded / "expand-vae" / "vae")
    data = micro_config("expand-vae", expanded).data
    images = next(batches(PhotoCrops(data, 1, 32), 32, [0])).images
    with torch.no_grad():
        latents = pixels_to_latents(vae, images)
    # measured on other crops of the same two photos
    assert float(latents.std()) == pytest.approx(1, abs=0.2)


def test_each_photo_was_encoded_by_the_teacher_once_a_side(expanded):
    files = list((expanded / "teacher-latents").rglob("*.safetensors"))
    assert len({file.parent for file in files}) == 1
    assert 1 <= len(files) <= 4  # two photos, mirrored or not
