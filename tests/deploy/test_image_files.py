import os
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from tocsr.deploy.formats import check_size
from tocsr.deploy.image_files import Picture, list_images, read_image, write_image
from tocsr.errors import TocsrError

FORMATS = ["png", "jpg", "webp"]


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 12, (x + y) * 5], axis=-1).clip(0, 255).astype(np.uint8)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def empty_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b""))
    )


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 30
    return exif.tobytes()


# ---- listing


def test_a_folder_lists_its_images_sorted_and_with_subfolders(tmp_path):
    for name in ("b.PNG", "a/z.jpeg", "a/c.JPG", "a.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a/c.JPG", "a/z.jpeg", "a.webp", "b.PNG"]


def test_hidden_and_unfinished_files_are_not_listed(tmp_path):
    for name in (".a.png", ".b.png.12.part", "c.png.part", ".cache/d.png", "e.png/inner.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == []


def test_a_file_is_listed_whatever_its_name(tmp_path):
    assert list_images(tmp_path / "none.txt") == [tmp_path / "none.txt"]


# ---- reading


def test_a_png_comes_back_bitwise(tmp_path):
    write_image(tmp_path / "a.png", Picture(gradient()), "png")
    assert np.array_equal(read_image(tmp_path / "a.png").rgb, gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_is_turned_upright(tmp_path, orientation, suffix):
    # EXIF 2.32, 4.6.4: what is the 0th row and the 0th column of the stored image.
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # stored top left
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif_of(orientation), quality=100)
    upright = read_image(path).rgb
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}
    corner |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert upright.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert upright[corner[orientation]].min() > 200


@pytest.mark.parametrize("file_format", FORMATS)
def test_exif_is_kept_with_orientation_one_and_without_the_old_size(tmp_path, file_format):
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=exif_of(6))
    write_image(tmp_path / "b", read_image(tmp_path / "a.jpg"), file_format)
    with Image.open(tmp_path / "b") as image:
        exif = image.getexif()
        assert exif[ExifTags.Base.Orientation] == 1
        assert exif[ExifTags.Base.Make] == "camera"
        assert ExifTags.Base.ExifImageWidth not in exif.get_ifd(ExifTags.IFD.Exif)


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_rgb_profile_is_kept(tmp_path, file_format):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(gradient()).save(tmp_path / "a.png", icc_profile=profile)
    write_image(tmp_path / "b", read_image(tmp_path / "a.png"), file_format)
    assert read_image(tmp_path / "b").icc == profile


def test_a_profile_of_other_colours_is_dropped(tmp_path):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"CMYK"
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg", icc_profile=bytes(profile))
    assert read_image(tmp_path / "a.jpg").icc is None


def test_a_broken_exif_block_does_not_cost_the_photo(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert np.array_equal(read_image(tmp_path / "a.png").rgb, gradient())


def test_gray_becomes_rgb(tmp_path):
    Image.fromarray(gradient()[:, :, 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").rgb, gradient()[:, :, [0, 0, 0]])


def test_sixteen_bit_gray_is_scaled_to_eight(tmp_path):
    levels = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    # v / 257 rounded: 128 / 257 = 0.498, 129 / 257 = 0.502, 32896 / 257 = 128
    assert read_image(tmp_path / "a.png").rgb[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_a_palette_becomes_rgb(tmp_path):
    Image.fromarray(gradient() // 128 * 255).quantize(8).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").rgb, gradient() // 128 * 255)


def test_a_transparent_palette_colour_becomes_alpha(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    picture = read_image(tmp_path / "a.png")
    assert picture.alpha.tolist() == [[255, 0]]
    assert picture.rgb.tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_alpha_is_kept(tmp_path, file_format):
    alpha = gradient()[:, :, 0]
    write_image(tmp_path / "a", Picture(gradient(), alpha), file_format)
    assert np.array_equal(read_image(tmp_path / "a").alpha, alpha)


def test_an_opaque_photo_has_no_alpha(tmp_path):
    write_image(tmp_path / "a.png", Picture(gradient()), "png")
    assert read_image(tmp_path / "a.png").alpha is None


def test_jpeg_lays_a_transparent_picture_on_white(tmp_path):
    alpha = np.zeros((16, 16), np.uint8)
    write_image(tmp_path / "a.jpg", Picture(np.zeros((16, 16, 3), np.uint8), alpha), "jpg")
    assert read_image(tmp_path / "a.jpg").rgb.min() >= 254


def test_a_phones_jpeg_of_several_pictures_gives_the_first(tmp_path):
    first, second = Image.fromarray(gradient()), Image.new("RGB", (8, 8))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.jpg").rgb.shape == (20, 30, 3)


# ---- what cannot be read


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TocsrError, match=r"cannot read .*none\.png: No such file"):
        read_image(tmp_path / "none.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(TocsrError, match=r"cannot read .*: Is a directory"):
        read_image(tmp_path)


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(TocsrError, match=r"must be a PNG.*, got an empty file"):
        read_image(tmp_path / "a.png")


def test_a_text_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(TocsrError, match="must be a PNG, JPEG, WebP, TIFF"):
        read_image(tmp_path / "a.png")


def test_another_format_is_refused_whatever_its_name(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", format="GIF")
    with pytest.raises(TocsrError, match="must be a PNG, JPEG, WebP, TIFF"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_cut_short_is_refused(tmp_path, file_format):
    path = tmp_path / "a"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write_image(path, Picture(noise), file_format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TocsrError, match=r"is damaged or cut short|must be a"):
        read_image(path)


@pytest.mark.parametrize("size", [(100_000, 100_000), (10_000, 10_000)])
def test_a_decompression_bomb_is_refused(tmp_path, size):
    (tmp_path / "a.png").write_bytes(empty_png(*size))
    with pytest.raises(TocsrError, match="must hold at most 89478485 pixels, it has more"):
        read_image(tmp_path / "a.png")


def test_an_image_without_pixels_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(empty_png(0, 5))
    with pytest.raises(TocsrError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_animation_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames = [Image.fromarray(gradient()), Image.fromarray(gradient()[::-1])]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(TocsrError, match="must hold one image, got an animation of 2 frames"):
        read_image(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), file_format=st.sampled_from(FORMATS))
def test_a_damaged_file_gives_a_picture_or_our_error(tmp_path_factory, data, file_format):
    path = tmp_path_factory.mktemp("damaged") / "a"
    picture = Picture(gradient(), gradient()[:, :, 0], exif=exif_of(6))
    write_image(path, picture, file_format)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        came = read_image(path).rgb.dtype.name
    except TocsrError as error:
        came = str(error)
    assert "\n" not in came


# ---- writing


@pytest.mark.parametrize(
    ("file_format", "limit"), [("webp", 16383), ("jpg", 65500), ("png", 2**31 - 1)]
)
def test_the_limit_of_a_format_is_kept(file_format, limit):
    check_size(1, limit, file_format)
    with pytest.raises(TocsrError, match=f"{file_format} holds sides of at most {limit} px"):
        check_size(limit + 1, 1, file_format)


@pytest.mark.parametrize(("file_format", "limit"), [("webp", 16383), ("jpg", 65500)])
def test_the_limit_of_a_format_is_pillows(tmp_path, file_format, limit):
    write_image(tmp_path / "a", Picture(np.zeros((1, limit, 3), np.uint8)), file_format)
    with pytest.raises((TocsrError, OSError)):
        write_image(tmp_path / "b", Picture(np.zeros((1, limit + 1, 3), np.uint8)), file_format)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lower_quality_makes_a_smaller_file(tmp_path):
    for file_format in ("jpg", "webp"):
        for quality in (50, 95):
            path = tmp_path / f"{quality}.{file_format}"
            write_image(path, Picture(gradient()), file_format, quality)
        sizes = [(tmp_path / f"{quality}.{file_format}").stat().st_size for quality in (50, 95)]
        assert sizes[0] < sizes[1]


WRITE_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from tocsr.deploy.image_files import Picture, write_image
from tocsr.errors import is_out_of_space
noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_image(Path(sys.argv[1]), Picture(noise), sys.argv[2])
except OSError as error:
    print(is_out_of_space(error))
"""


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path, file_format):
    path = tmp_path / "a"
    path.write_text("what stood there")
    command = [sys.executable, "-c", WRITE_UNDER_A_LIMIT, str(path), file_format]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "what stood there"


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tocsr.deploy.image_files import Picture, write_image
def die_halfway(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = die_halfway
write_image(Path(sys.argv[1]), Picture(np.zeros((8, 8, 3), np.uint8)), "png")
"""


def test_a_kill_in_the_middle_of_writing_leaves_no_output(tmp_path):
    command = [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path / "a.png")]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.png").exists()
    assert len(os.listdir(tmp_path)) == 1  # the part, hidden, which no listing shows
    assert list_images(tmp_path) == []
