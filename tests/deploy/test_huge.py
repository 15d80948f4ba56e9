"""Photos read and written in strips, held against the way through memory."""

from __future__ import annotations

import errno
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tocsr.deploy import huge
from tocsr.deploy import upscale_steps as module
from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.image_files import read_image
from tocsr.deploy.upscale import run
from tocsr.errors import ExitCode, TocsrError

pytest.importorskip("pyvips", exc_type=ImportError, reason="needs pyvips with libvips")


@pytest.fixture
def little_memory(monkeypatch):
    """No memory, and strips of few rows."""
    monkeypatch.setattr(module, "available_bytes", lambda: 0)
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(huge, "STRIP", 5)


def levels(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """A smooth image with some grain."""
    rows, cols = np.indices(shape[:2])
    grain = np.random.default_rng(0).integers(0, 20, shape)
    smooth = (90 + 60 * np.sin(rows / 7) + 50 * np.cos(cols / 9))[..., None]
    values = smooth + grain if len(shape) == 3 else smooth[:, :, 0] + grain
    return (values * (257 if dtype == np.uint16 else 1)).astype(dtype)


def both_ways(photo, tmp_path, toy_model, monkeypatch, suffix="png", **options):
    """Results (in memory, in strips) as files."""
    made = []
    for name, there in (("memory", 2**40), ("strips", 0)):
        monkeypatch.setattr(module, "available_bytes", lambda there=there: there)
        monkeypatch.setattr(module, "LARGE", 0)
        target = tmp_path / f"{name}.{suffix}"
        outcome = run(UpscaleConfig(inputs=[photo], output=target, model=toy_model, **options))
        assert outcome["failed"] == {}
        made.append(target)
    return made


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("color_fix", ["none", "adain", "wavelet"])
def test_strips_give_the_pixels_that_memory_gives(
    tmp_path, toy_model, monkeypatch, suffix, color_fix
):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((37, 50, 3), np.uint8)).save(photo)
    whole, strips = both_ways(
        photo, tmp_path, toy_model, monkeypatch, suffix, color_fix=color_fix, tile=16
    )
    assert np.array_equal(read_image(whole).rgb, read_image(strips).rgb)


def test_sixteen_bits_stay(tmp_path, toy_model, monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs")
    photo = tmp_path / "photo.png"
    photo.write_bytes(imagecodecs.png_encode(levels((20, 30, 3), np.uint16)))
    whole, strips = both_ways(photo, tmp_path, toy_model, monkeypatch)
    ours, theirs = read_image(strips, deep=True).rgb, read_image(whole, deep=True).rgb
    assert ours.dtype == np.uint16
    assert np.array_equal(ours, theirs)


def test_gray_stays_gray(tmp_path, toy_model, monkeypatch):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((20, 30), np.uint8)).save(photo)
    whole, strips = both_ways(photo, tmp_path, toy_model, monkeypatch)
    with Image.open(whole) as theirs, Image.open(strips) as ours:
        assert ours.mode == theirs.mode == "L"
        difference = np.asarray(ours).astype(int) - np.asarray(theirs)
    assert np.abs(difference).max() <= 1  # floats here, Pillow's whole numbers there


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_what_stands_around_the_pixels_is_kept(tmp_path, toy_model, monkeypatch, suffix):
    photo = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "somebody"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(levels((24, 40, 3), np.uint8)).save(
        photo, exif=exif, dpi=(200, 200), icc_profile=icc
    )
    whole, strips = both_ways(photo, tmp_path, toy_model, monkeypatch, suffix)
    theirs, ours = read_image(whole), read_image(strips)
    assert ours.rgb.shape == (160, 96, 3)
    assert np.array_equal(ours.rgb, theirs.rgb) or suffix == "jpg"
    assert np.abs(ours.rgb.astype(int) - theirs.rgb).max() < 10  # two JPEG encoders
    assert ours.dpi == pytest.approx(theirs.dpi)
    assert ours.icc == theirs.icc == icc
    with Image.open(whole) as one, Image.open(strips) as other:
        texts = [
            {tag: text for tag, text in image.getexif().items() if isinstance(text, str)}
            for image in (one, other)
        ]
    assert texts[0] == texts[1]
    assert texts[1][ExifTags.Base.Artist] == "somebody"


def test_more_pixels_than_pillow_opens_go_in_strips(tmp_path, toy_model, monkeypatch):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    monkeypatch.setattr(module, "LARGE", 0)
    target = tmp_path / "large.png"
    assert run(UpscaleConfig(inputs=[photo], output=target, model=toy_model))["failed"] == {}
    assert huge.header(target) == (80, 120, False, True)


def refusal(photo, target, model, **options) -> str:
    """What a run of one photo says that the memory does not hold."""
    config = UpscaleConfig(inputs=[photo], output=target, model=model, **options)
    with pytest.raises(TocsrError) as caught:
        run(config)
    assert caught.value.code is ExitCode.RESOURCES
    return str(caught.value)


@pytest.mark.usefixtures("little_memory")
def test_transparency_is_refused(tmp_path, toy_model):
    photo = tmp_path / "photo.png"
    Image.new("RGBA", (20, 30), (9, 9, 9, 100)).save(photo)
    assert "must be opaque" in refusal(photo, tmp_path / "x.png", toy_model)


@pytest.mark.usefixtures("little_memory")
def test_a_format_without_such_sides_is_refused_before_the_work(tmp_path, toy_model, monkeypatch):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo)
    monkeypatch.setattr(module, "read_huge", None)  # not called
    said = refusal(photo, tmp_path / "x.webp", toy_model)
    assert "format must be one of png, jpg, tif where the memory" in said


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png"])
def test_the_header_has_the_size_of_the_upright_photo(tmp_path, suffix):
    photo, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo, exif=exif)
    assert huge.header(photo)[:2] == read_image(photo).rgb.shape[:2] == (30, 20)
    assert huge.read_huge(photo, False, np.empty).rgb.shape[:2] == (30, 20)


def test_a_header_that_says_too_many_pixels_is_a_bomb(tmp_path, monkeypatch):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo)
    assert huge.header(photo).in_strips
    monkeypatch.setattr(huge, "MAX_PIXELS", 599)
    assert not huge.header(photo).in_strips


def test_a_photo_that_libvips_may_not_read_goes_through_memory(tmp_path):
    photo = tmp_path / "photo.bmp"
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo)
    assert huge.header(photo) == (20, 30, False, False)


@pytest.mark.usefixtures("little_memory")
def test_a_damaged_photo_is_named_and_nothing_is_written(tmp_path, toy_model):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((90, 130, 3), np.uint8)).save(photo)
    photo.write_bytes(photo.read_bytes()[:-9000])
    outcome = run(UpscaleConfig(inputs=[photo], output=tmp_path / "x.png", model=toy_model))
    assert "is damaged or cut short" in outcome["failed"][str(photo)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photo.png"]


@pytest.mark.usefixtures("little_memory")
def test_without_pyvips_it_is_named(tmp_path, toy_model, monkeypatch):
    photo = tmp_path / "photo.png"
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo)
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert "pip install 'tocsr[huge]'" in refusal(photo, tmp_path / "x.png", toy_model)


@pytest.mark.usefixtures("little_memory")
def test_a_disk_without_room_is_said_before_the_work(tmp_path, toy_model, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    photo = tmp_path / "photo.png"
    Image.fromarray(levels((20, 30, 3), np.uint8)).save(photo)
    monkeypatch.setattr(huge.os, "posix_fallocate", full)
    with pytest.raises(TocsrError, match="No space left on device; make room") as caught:
        run(UpscaleConfig(inputs=[photo], output=tmp_path / "x.png", model=toy_model))
    assert caught.value.code is ExitCode.RESOURCES
