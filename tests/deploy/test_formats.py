import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, features

from tocsr.deploy import formats
from tocsr.deploy.formats import MAX_SIDE, PILLOW_NAME, check_size
from tocsr.deploy.image_files import Picture, encode_image, read_image, write_image
from tocsr.errors import TocsrError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, (x + y) * 4], axis=-1).clip(0, 255).astype(np.uint8)


def needs(file_format: str) -> None:
    """Skips where the package or the build that a format needs is missing."""
    if file_format == "heic":
        pytest.importorskip("pillow_heif")
    if file_format == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "camera"
    return exif.tobytes()


@pytest.mark.parametrize("file_format", ["tif", "bmp"])
def test_a_lossless_format_brings_every_level_back(tmp_path, file_format):
    write_image(tmp_path / "a", Picture(gradient()), file_format)
    assert np.array_equal(read_image(tmp_path / "a").rgb, gradient())


@pytest.mark.parametrize("file_format", ["avif", "heic"])
def test_a_lossy_format_brings_the_picture_back_nearly(tmp_path, file_format):
    needs(file_format)
    write_image(tmp_path / "a", Picture(gradient()), file_format, 100)
    difference = read_image(tmp_path / "a").rgb.astype(int) - gradient()
    assert np.abs(difference).mean() < 3  # colours at half the resolution


@pytest.mark.parametrize("file_format", ["tif", "avif", "heic"])
def test_a_format_with_transparency_keeps_it(tmp_path, file_format):
    needs(file_format)
    alpha = gradient()[:, :, 0]
    write_image(tmp_path / "a", Picture(gradient(), alpha), file_format, 100)
    found = read_image(tmp_path / "a").alpha
    assert np.abs(found.astype(int) - alpha).max() <= (0 if file_format == "tif" else 4)


def test_a_bmp_is_laid_on_white(tmp_path):
    write_image(tmp_path / "a", Picture(gradient(), np.zeros((24, 40), np.uint8)), "bmp")
    picture = read_image(tmp_path / "a")
    assert picture.rgb.min() == 255
    assert picture.alpha is None


@pytest.mark.parametrize("file_format", ["tif", "avif", "heic"])
def test_exif_and_profile_are_kept(tmp_path, file_format):
    needs(file_format)
    write_image(tmp_path / "a", Picture(gradient(), exif=exif_of(1), icc=SRGB), file_format)
    picture = read_image(tmp_path / "a")
    exif = Image.Exif()
    exif.load(picture.exif)
    assert exif[ExifTags.Base.Make] == "camera"
    assert picture.icc == SRGB


@pytest.mark.parametrize("file_format", ["png", "jpg", "tif", "bmp"])
def test_the_resolution_is_kept(tmp_path, file_format):
    write_image(tmp_path / "a", Picture(gradient(), dpi=(300.0, 150.0)), file_format)
    across, down = read_image(tmp_path / "a").dpi
    assert (across, down) == pytest.approx((300, 150), abs=0.02)  # whole dots per metre


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # stored top left
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif_of(orientation))
    upright = read_image(tmp_path / "a.tif").rgb
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}
    corner |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert upright.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert upright[corner[orientation]].min() == 255


def test_the_layout_of_a_tiff_does_not_follow_its_exif_into_a_jpeg(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.tif", exif=exif_of(1))
    exif = Image.Exif()
    exif.load(read_image(tmp_path / "a.tif").exif)
    assert set(exif) == {ExifTags.Base.Make, ExifTags.Base.Orientation}


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_stays_gray(tmp_path, mode):
    Image.fromarray(gradient()[:, :, 0]).convert(mode).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.gray
    with Image.open(io.BytesIO(encode_image(picture, "png"))) as image:
        assert image.mode == ("LA" if mode == "LA" else "L")


@pytest.mark.parametrize("file_format", [f for f in PILLOW_NAME if f not in ("png", "bmp")])
def test_gray_is_written_in_every_format(tmp_path, file_format):
    needs(file_format)
    gray = np.repeat(gradient()[:, :, :1], 3, axis=2)
    write_image(tmp_path / "a", Picture(gray, gray[:, :, 0], gray=True), file_format, 100)
    rgb = read_image(tmp_path / "a").rgb.astype(int)
    assert np.abs(rgb - rgb[:, :, :1]).max() <= 2  # no colour came in


def test_a_gray_profile_stays_with_gray_and_with_nothing_else(tmp_path):
    gray = np.repeat(gradient()[:, :, :1], 3, axis=2)
    picture = Picture(gray, icc=GRAY_PROFILE, gray=True)
    with Image.open(io.BytesIO(encode_image(picture, "jpg"))) as image:
        assert image.info["icc_profile"] == GRAY_PROFILE
    for other in (
        encode_image(picture, "webp"),
        encode_image(Picture(gray, icc=GRAY_PROFILE), "png"),
    ):
        with Image.open(io.BytesIO(other)) as image:
            assert "icc_profile" not in image.info


def test_cmyk_without_a_profile_follows_pillows_rule(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").rgb[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_that_are_no_colours_of_ours_are_named(tmp_path, mode):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(TocsrError, match=f"got pixels of mode {mode}"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    page = Image.fromarray(gradient())
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    with pytest.raises(TocsrError, match="must hold one image, got a file of 3 pages"):
        read_image(tmp_path / "a.tif")


def test_an_animated_avif_is_refused(tmp_path):
    needs("avif")
    frames = [Image.fromarray(gradient()), Image.fromarray(gradient()[::-1])]
    frames[0].save(tmp_path / "a.avif", save_all=True, append_images=frames[1:])
    with pytest.raises(TocsrError, match="got an animation of 2 frames"):
        read_image(tmp_path / "a.avif")


def test_a_heic_file_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    def missing(name: str):
        raise ModuleNotFoundError(name=name)

    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setattr(formats, "import_module", missing)
    with pytest.raises(TocsrError, match=r"needs the package pillow-heif.*tocsr\[heif\]"):
        read_image(tmp_path / "a.heic")
    with pytest.raises(TocsrError, match="needs the package pillow-heif"):
        encode_image(Picture(gradient()), "heic")


def test_avif_on_a_pillow_without_it_says_so(monkeypatch):
    monkeypatch.setattr(formats.features, "check", lambda _: False)
    with pytest.raises(TocsrError, match="AVIF needs a Pillow that was built with it"):
        encode_image(Picture(gradient()), "avif")


@pytest.mark.parametrize("file_format", ["tif", "bmp"])
def test_a_format_of_32_bit_offsets_is_not_overfilled(file_format):
    check_size(30_000, 30_000, file_format, 3)
    with pytest.raises(TocsrError, match=f"{file_format} holds at most .* pixels of 3 bytes"):
        check_size(40_000, 40_000, file_format, 3)


def test_every_format_has_a_limit_and_a_name():
    assert MAX_SIDE.keys() == PILLOW_NAME.keys() == set(formats.FORMAT_OF_SUFFIX.values())
