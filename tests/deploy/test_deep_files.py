import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tocsr.deploy import deep_files
from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.image_files import Picture, encode_image, read_image, write_image
from tocsr.deploy.upscale import run
from tocsr.errors import TocsrError

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DEEP = ["png", "tif"]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)


def made_elsewhere(path, pixels: np.ndarray) -> None:
    """Writes pixels with another program than the one under test."""
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        colors = "rgb" if pixels.ndim == 3 and pixels.shape[2] > 2 else "minisblack"
        tifffile.imwrite(path, pixels, photometric=colors, compression="lzw", predictor=True)


@pytest.mark.parametrize("file_format", DEEP)
@pytest.mark.parametrize("alpha", [None, noise(9, 14)])
def test_sixteen_bit_rgb_comes_back_bitwise(tmp_path, file_format, alpha):
    picture = Picture(noise(9, 14, 3), alpha)
    write_image(tmp_path / "a", picture, file_format)
    found = read_image(tmp_path / "a", deep=True)
    assert np.array_equal(found.rgb, picture.rgb)
    assert np.array_equal(found.alpha, alpha) if alpha is not None else found.alpha is None


@pytest.mark.parametrize("file_format", DEEP)
@pytest.mark.parametrize("alpha", [None, noise(9, 14)])
def test_sixteen_bit_gray_comes_back_bitwise(tmp_path, file_format, alpha):
    picture = Picture(np.repeat(noise(9, 14, 1), 3, axis=2), alpha, gray=True)
    write_image(tmp_path / "a", picture, file_format)
    found = read_image(tmp_path / "a", deep=True)
    assert found.gray or (file_format == "tif" and alpha is not None)  # that is written as RGB
    assert np.array_equal(found.rgb, picture.rgb)
    assert (found.alpha is None) == (alpha is None)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("shape", [(9, 14), (9, 14, 3), (9, 14, 4)])
def test_files_of_other_programs_are_read_bitwise(tmp_path, name, shape):
    made_elsewhere(tmp_path / name, noise(*shape))
    picture = read_image(tmp_path / name, deep=True)
    colors = noise(*shape)[:, :, None].repeat(3, 2) if len(shape) == 2 else noise(*shape)[:, :, :3]
    assert np.array_equal(picture.rgb, colors)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_without_asking_for_more_eight_bits_come(tmp_path, name):
    made_elsewhere(tmp_path / name, noise(9, 14, 3))
    rgb = read_image(tmp_path / name).rgb
    assert rgb.dtype == np.uint8
    assert np.abs(rgb * 257.0 - noise(9, 14, 3)).max() <= 257  # Pillow cuts the lower byte off


def test_planes_that_lie_apart_are_put_together(tmp_path):
    planes = np.moveaxis(noise(9, 14, 3), -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "a.tif", deep=True).rgb, noise(9, 14, 3))


def test_white_at_zero_is_turned_over(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(9, 14), photometric="miniswhite")
    assert np.array_equal(
        read_image(tmp_path / "a.tif", deep=True).rgb[:, :, 0], 65535 - noise(9, 14)
    )


def test_inks_of_sixteen_bits_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(9, 14, 4), photometric="separated")
    with pytest.raises(TocsrError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif", deep=True)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_deep_picture_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = io.BytesIO(encode_image(Picture(noise(9, 14, 3), exif=exif.tobytes()), "png"))
    from tocsr.deploy.image_files import decode_image

    upright = {1: noise(9, 14, 3), 3: noise(9, 14, 3)[::-1, ::-1]}
    upright |= {6: np.rot90(noise(9, 14, 3), -1), 8: np.rot90(noise(9, 14, 3))}
    assert np.array_equal(decode_image(stored, "a", deep=True).rgb, upright[orientation])


@pytest.mark.parametrize("file_format", DEEP)
def test_profile_resolution_and_maker_are_kept(tmp_path, file_format):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    exif[ExifTags.Base.ProcessingSoftware] = "made so"
    picture = Picture(noise(9, 14, 3), exif=exif.tobytes(), icc=SRGB, dpi=(300.0, 150.0))
    write_image(tmp_path / "a", picture, file_format)
    found = read_image(tmp_path / "a", deep=True)
    kept = Image.Exif()
    kept.load(found.exif)
    assert kept[ExifTags.Base.Make] == "camera"
    assert kept[ExifTags.Base.ProcessingSoftware] == "made so"
    assert found.icc == SRGB
    assert found.dpi == pytest.approx((300, 150), abs=0.02)  # PNG: whole dots per metre


def test_pillow_reads_what_we_write(tmp_path):
    for file_format in DEEP:
        write_image(tmp_path / "a", Picture(noise(9, 14, 3), icc=SRGB), file_format)
        with Image.open(tmp_path / "a") as image:
            image.load()
            assert (image.size, image.mode, image.info["icc_profile"]) == ((14, 9), "RGB", SRGB)


def test_a_jpeg_takes_eight_of_sixteen_bits(tmp_path):
    flat = np.full((16, 16, 3), 32896, np.uint16)  # 128 x 257
    write_image(tmp_path / "a", Picture(flat), "jpg")
    assert np.abs(read_image(tmp_path / "a").rgb.astype(int) - 128).max() <= 1


def test_without_its_packages_sixteen_bits_say_what_to_install(tmp_path, monkeypatch):
    made_elsewhere(tmp_path / "a.png", noise(9, 14, 3))

    def missing(name: str):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(deep_files, "import_module", missing)
    with pytest.raises(TocsrError, match=r"needs the package imagecodecs.*tocsr\[io\].*--depth 8"):
        read_image(tmp_path / "a.png", deep=True)
    assert read_image(tmp_path / "a.png").rgb.dtype == np.uint8


# ---- the run


@pytest.mark.parametrize(
    ("depth", "suffix", "expected"),
    [("auto", "png", 16), ("auto", "tif", 16), ("8", "png", 8), ("auto", "jpg", 8)],
)
def test_a_result_has_the_bits_of_its_photo_where_its_format_can(
    tmp_path, toy_model, depth, suffix, expected
):
    made_elsewhere(tmp_path / "a.png", noise(9, 14, 3))
    output = tmp_path / f"b.{suffix}"
    result = run(
        UpscaleConfig(inputs=[tmp_path / "a.png"], output=output, model=toy_model, depth=depth)
    )
    assert result["failed"] == {}
    assert read_image(output, deep=True).is_deep == (expected == 16)


def test_sixteen_bits_can_be_asked_for(tmp_path, toy_model, photo):
    write_image(tmp_path / "a.png", Picture(photo), "png")
    for depth in ("8", "16"):
        output = tmp_path / f"{depth}.png"
        config = UpscaleConfig(
            inputs=[tmp_path / "a.png"], output=output, model=toy_model, depth=depth
        )
        run(config)
    eight, sixteen = (read_image(tmp_path / f"{d}.png", deep=True).rgb for d in (8, 16))
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 257 - eight).max() <= 0.51  # the same result, more finely rounded
    assert len(np.unique(sixteen)) > 1000


def test_sixteen_bits_in_a_jpeg_are_refused(tmp_path, toy_model, photo):
    write_image(tmp_path / "a.jpg", Picture(photo), "jpg")
    result = run(
        UpscaleConfig(
            inputs=[tmp_path / "a.jpg"], output=tmp_path / "o", model=toy_model, depth="16"
        )
    )
    assert "depth 16 needs a PNG or TIFF result" in result["failed"][str(tmp_path / "a.jpg")]
