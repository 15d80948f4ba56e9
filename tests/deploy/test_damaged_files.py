"""Bytes that are no image, or not quite: a clear error, never another exception, never a file."""

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.formats import PILLOW_NAME
from tocsr.deploy.image_files import Picture, decode_image, encode_image
from tocsr.deploy.upscale import run
from tocsr.errors import TocsrError

FORMATS = [f for f in PILLOW_NAME if f != "heic" and (f != "avif" or features.check("avif"))]
READ = ["1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16"]
# Colours we refuse, a palette that is missing, and what Pillow writes but cannot read.
NAMED = ["I", "F", "LAB", "HSV", "P", "YCbCr"]


def picture(dtype: type = np.uint8) -> Picture:
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (12, 17, 4), dtype)
    exif = Image.Exif()
    exif[274] = 6
    return Picture(levels[:, :, :3], levels[:, :, 3], exif=exif.tobytes(), dpi=(72.0, 72.0))


@cache
def whole(name: str) -> bytes:
    """A good file; `deep png` and `deep tif` are those of 16 bits."""
    if name.startswith("deep"):
        pytest.importorskip("imagecodecs")
        pytest.importorskip("tifffile")
        return bytes(encode_image(picture(np.uint16), name.removeprefix("deep ")))
    return bytes(encode_image(picture(), name))


NAMES = [*FORMATS, "deep png", "deep tif"]


def outcome(content: bytes) -> str:
    """What came of reading it; any exception but ours goes through."""
    try:
        found = decode_image(io.BytesIO(content), "a", deep=True)
    except TocsrError as error:
        return str(error)
    assert found.rgb.ndim == 3
    assert 0 not in found.rgb.shape
    return "a picture"


@pytest.mark.parametrize("name", NAMES)
def test_a_good_file_gives_its_picture(name):
    assert outcome(whole(name)) == "a picture"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_changed_bytes_give_a_picture_or_one_clear_line(name, data):
    content = bytearray(whole(name))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert "\n" not in outcome(bytes(content))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_gives_a_picture_or_one_clear_line(name, data):
    content = whole(name)
    assert "\n" not in outcome(content[: data.draw(st.integers(0, len(content) - 1))])


@settings(max_examples=30, deadline=None)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*"]),
    rest=st.binary(max_size=200),
)
def test_bytes_that_begin_like_an_image_give_one_clear_line(start, rest):
    assert "\n" not in outcome(start + rest)


def saved(mode: str, size: tuple[int, int], pillow_name: str) -> bytes:
    buffer = io.BytesIO()
    try:
        Image.new(mode, size).save(buffer, pillow_name)
    except OSError:
        pytest.skip(f"{pillow_name} has no {mode}")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", READ)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("pillow_name", ["PNG", "TIFF", "BMP"])
def test_every_mode_is_read_at_the_smallest_sizes(mode, size, pillow_name):
    assert outcome(saved(mode, size, pillow_name)) == "a picture"


@pytest.mark.filterwarnings("ignore:Saving I mode images:DeprecationWarning")
@pytest.mark.parametrize("mode", NAMED)
@pytest.mark.parametrize("pillow_name", ["PNG", "TIFF", "BMP"])
def test_an_odd_mode_gives_a_picture_or_one_clear_line(mode, pillow_name):
    assert "\n" not in outcome(saved(mode, (9, 7), pillow_name))


def tiff_of(width: int, height: int) -> bytes:
    """A TIFF header that promises so many pixels, and nothing behind it."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, height), (279, 4)]
    ifd = len(entries).to_bytes(2, "little")
    for tag, value in entries:
        kind, count = (4).to_bytes(2, "little"), (1).to_bytes(4, "little")
        ifd += tag.to_bytes(2, "little") + kind + count + value.to_bytes(4, "little")
    return b"II*\0" + (8).to_bytes(4, "little") + ifd + bytes(4)


def bmp_of(width: int, height: int) -> bytes:
    header = bytearray(encode_image(picture(), "bmp")[:54])
    header[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(header)


@pytest.mark.parametrize("make", [tiff_of, bmp_of])
def test_a_bomb_is_refused_before_its_pixels_are_there(make):
    assert "must hold at most 89478485 pixels" in outcome(make(100_000, 100_000))


@pytest.mark.parametrize("make", [tiff_of, bmp_of])
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_no_pixels_are_refused(make, size):
    assert outcome(make(*size)) != "a picture"


def test_a_folder_of_damaged_files_names_each_and_writes_none(tmp_path, toy_model):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for file_format in FORMATS:
        content = whole(file_format)
        (folder / f"cut_{file_format}.{file_format}").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").touch()
    (folder / "bomb.tif").write_bytes(tiff_of(100_000, 100_000))
    result = run(UpscaleConfig(inputs=[folder], output=out, model=toy_model))
    assert result["done"] == []
    assert set(result["failed"]) == {str(path) for path in folder.iterdir()}
    assert not out.exists()
