import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tocsr.config import Source
from tocsr.data.sources import Photo, list_photos, read_photo
from tocsr.errors import TocsrError
from tocsr.options import read_config
from tocsr.plans import plan_phase

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def names(folder, fraction=1.0, **settings) -> list[str]:
    photos = list_photos(Source(path=str(folder), **settings), fraction)
    return [photo.path.relative_to(folder).as_posix() for photo in photos]


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_a_limit_takes_the_first_photos_by_name(tmp_path):
    touch(tmp_path, "2.png", "0.png", "3.png", "1.png")
    assert names(tmp_path, limit=2) == ["0.png", "1.png"]


def test_a_limit_takes_the_first_of_ffhq_through_its_folders(tmp_path):
    numbers = [0, 1, 999, 1000, 1999, 10000, 69999]
    files = [f"{n // 1000 * 1000:05}/{n:05}.png" for n in numbers]
    touch(tmp_path, *reversed(files), "LICENSE.txt")
    assert names(tmp_path, limit=5) == files[:5]


def test_a_fraction_takes_an_evenly_spread_share(tmp_path):
    touch(tmp_path, *(f"{i}.png" for i in range(4)))
    assert names(tmp_path, 0.5) == ["0.png", "2.png"]


def test_a_fraction_is_taken_of_what_the_limit_leaves(tmp_path):
    touch(tmp_path, *(f"{i}.png" for i in range(8)))
    assert names(tmp_path, 0.5, limit=4) == ["0.png", "2.png"]


def test_photos_are_known_by_their_suffix(tmp_path):
    files = ["a.BMP", "b.jpeg", "c.jpg", "d.png", "e.tif", "f.tiff", "g.webp"]
    touch(tmp_path, *files, "h.txt", "i.json", "._c.jpg", ".DS_Store")
    assert names(tmp_path) == files


def test_a_missing_folder_says_what_to_set(tmp_path):
    with pytest.raises(TocsrError, match=r"a folder of photos or \.tar shards and is none; set da"):
        list_photos(Source(path=str(tmp_path / "no")))


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(TocsrError, match=r"holds no photo \(\.bmp, "):
        list_photos(Source(path=str(tmp_path)))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(TocsrError, match=f"'x' must be above 0, got {weight}; leave the source"):
        Source(path="x", weight=weight)


def test_a_negative_limit_is_refused():
    with pytest.raises(TocsrError, match="limit of data source 'x' must be at least 0, got -1"):
        Source(path="x", limit=-1)


def test_a_plan_says_what_each_source_gives(tmp_path):
    touch(tmp_path, *(f"few/{i}.png" for i in range(3)), *(f"many/{i}.png" for i in range(9)))
    sources = [("few", 1, 0), ("many", 2, 4), ("none", 5, 0)]
    given = [{"path": str(tmp_path / p), "weight": w, "limit": n} for p, w, n in sources]
    options = ["--preset=tiny", f"--runs={tmp_path}", f"--data.sources={json.dumps(given)}"]
    rows = plan_phase(read_config("expand-unet", options)[0], step=False)["data"]
    assert list(rows) == [row["path"] for row in given]
    few, many, none = rows.values()
    assert few == "3 photos (12.5% of the samples)"
    assert many == "4 photos (25.0% of the samples, limit 4)"
    assert none.startswith(f"not there yet: data source '{tmp_path}/none' must be a folder of")
    assert none.endswith("(62.5% of the samples)")


def saved(folder, image, name, **settings) -> np.ndarray:
    image.save(folder / name, **settings)
    return read_photo(Photo(folder / name))


COLOURS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif"])
def test_colours_are_those_stored(tmp_path, name):
    assert np.array_equal(saved(tmp_path, Image.fromarray(COLOURS), name), COLOURS)


def test_gray_becomes_three_equal_channels(tmp_path):
    gray = COLOURS[..., 0]
    pixels = saved(tmp_path, Image.fromarray(gray), "x.png")
    assert np.array_equal(pixels, np.repeat(gray[..., None], 3, axis=2))


def test_a_palette_becomes_its_colours(tmp_path):
    image = Image.fromarray(COLOURS).quantize(16)
    pixels = saved(tmp_path, image, "x.png", transparency=0)
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_cmyk_becomes_the_colour_that_was_printed(tmp_path):
    colour = Image.new("RGB", (64, 64), (200, 100, 50)).convert("CMYK")
    assert saved(tmp_path, colour, "x.tif")[0, 0].tolist() == [200, 100, 50]
    # JPEG keeps CMYK inverted; one level for its rounding
    assert np.abs(saved(tmp_path, colour, "x.jpg", quality=100)[0, 0] - [200, 100, 50.0]).max() <= 1


def test_alpha_is_left_out_and_colours_stay(tmp_path):
    half = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None, :].repeat(48, 0)
    pixels = saved(tmp_path, Image.fromarray(np.dstack([COLOURS, half])), "x.png")
    assert np.array_equal(pixels, COLOURS)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_gray_keeps_its_upper_8(tmp_path, name):
    pixels = saved(tmp_path, Image.fromarray(RAMP * 16), name)
    assert np.array_equal(pixels, np.repeat((RAMP * 16 >> 8)[..., None], 3, axis=2))


def test_16_bit_colour_keeps_its_upper_8(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    colours = np.stack([RAMP * 16, RAMP * 8, RAMP], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(png)
    assert np.array_equal(read_photo(Photo(tmp_path / "x.png")), colours >> 8)


def test_32_bit_pixels_are_refused(tmp_path):
    with pytest.raises(TocsrError, match=r"must have 8 or 16 bits per channel, .*x\.tif has 32"):
        saved(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "x.tif")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp", "x.tif"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of a TIFF of 10 bytes
def test_a_truncated_photo_names_itself(tmp_path, name, kept):
    path = tmp_path / name
    Image.fromarray(COLOURS).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(TocsrError, match=rf"^\S*{name} is not a readable image[^<]*$"):
        read_photo(Photo(path))
