import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import ExifTags, Image, ImageCms

from tocsr import __version__
from tocsr.deploy import upscale_steps as module
from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.formats import MAX_SIDE
from tocsr.deploy.image_files import Picture, decode_image, read_image, write_image
from tocsr.deploy.metadata import model_checksum
from tocsr.deploy.upscale import run, with_time_left
from tocsr.deploy.upscale_jobs import plan
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError


def save(path: Path, size: tuple[int, int] = (9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def targets(*inputs: Path, **options) -> list[str]:
    return [str(job.target) for job in plan(UpscaleConfig(inputs=list(inputs), **options), 4)]


# ---- the configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": []}, "at least one photo"),
        ({"quality": 0}, r"quality must be in 1..100, got 0"),
        ({"quality": 101}, r"quality must be in 1..100, got 101"),
        ({"tile": -1}, "tile must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"upscale": 0.5}, "upscale must be a factor from 1 to 8, or 0 for the model's, got 0.5"),
        ({"upscale": 8.5}, "upscale must be a factor from 1 to 8, or 0 for the model's, got 8.5"),
        ({"upscale": 2, "width": 90}, "upscale cannot stand with width or height"),
        ({"width": -1}, "width must be at least 0, got -1"),
        ({"fidelity": 1.5}, "fidelity must be from 0 to 1, got 1.5"),
        ({"depth": "16", "format": "jpg"}, "depth 16 needs format png or tif, got jpg"),
        ({"num_threads": -1}, "num_threads must be at least 0, got -1"),
    ],
)
def test_a_value_out_of_range_is_refused(options, message):
    with pytest.raises(TocsrError, match=message):
        UpscaleConfig(**{"inputs": [Path("a.png")], **options})


# ---- where results go


def test_a_result_lies_beside_its_photo_by_default(tmp_path):
    assert targets(tmp_path / "a.jpg") == [str(tmp_path / "a_x4.png")]


def test_the_format_decides_the_suffix_beside_a_photo(tmp_path):
    assert targets(tmp_path / "a.jpg", format="webp") == [str(tmp_path / "a_x4.webp")]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"upscale": 2.0}, "a_x2.png"),
        ({"upscale": 1.5}, "a_x1.5.png"),
        ({"width": 800}, "a_800w.png"),
        ({"height": 600}, "a_600h.png"),
        ({"width": 800, "height": 600}, "a_800x600.png"),
    ],
)
def test_the_name_of_a_result_says_its_size(tmp_path, options, name):
    assert targets(tmp_path / "a.jpg", **options) == [str(tmp_path / name)]


def test_results_of_a_fraction_are_not_upscaled_again(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "a_x1.5.png")
    assert targets(tmp_path, upscale=1.5) == [str(tmp_path / "a_x1.5.png")]


def test_standard_input_goes_to_standard_output_unless_told_otherwise(tmp_path):
    assert targets(Path("-")) == ["-"]
    assert targets(Path("-"), output=tmp_path / "a.png") == [str(tmp_path / "a.png")]
    assert targets(Path("-"), output=tmp_path) == [str(tmp_path / "stdin.png")]
    assert targets(tmp_path / "a.jpg", output=Path("-")) == ["-"]


def test_several_photos_do_not_fit_standard_output(tmp_path):
    with pytest.raises(TocsrError, match="output must be a folder for several photos"):
        targets(tmp_path / "a.png", tmp_path / "b.png", output=Path("-"))


def test_a_single_photo_may_name_its_file(tmp_path):
    output = tmp_path / "new" / "b.webp"
    (job,) = plan(UpscaleConfig(inputs=[tmp_path / "a.jpg"], output=output), 4)
    assert (job.target, job.file_format) == (output, "webp")


def test_a_folder_with_an_image_suffix_is_a_folder(tmp_path):
    (tmp_path / "out.png").mkdir()
    assert targets(tmp_path / "a.png", output=tmp_path / "out.png") == [
        str(tmp_path / "out.png" / "a.png")
    ]


def test_input_folders_are_mirrored(tmp_path):
    save(tmp_path / "in" / "a.JPG")
    save(tmp_path / "in" / "sub" / "b.png")
    out = tmp_path / "out"
    assert targets(tmp_path / "in", output=out) == [str(out / "a.JPG"), str(out / "sub" / "b.png")]


def test_a_format_replaces_the_suffixes_of_a_mirrored_folder(tmp_path):
    save(tmp_path / "in" / "a.jpeg")
    save(tmp_path / "in" / "b.png")
    out = tmp_path / "out"
    assert targets(tmp_path / "in", output=out, format="jpg") == [
        str(out / "a.jpeg"),
        str(out / "b.jpg"),
    ]


def test_a_photo_named_twice_is_taken_once(tmp_path):
    photo = save(tmp_path / "a.png")
    assert len(targets(photo, tmp_path, tmp_path / "." / "a.png")) == 1


def test_results_beside_photos_are_not_upscaled_again(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "a_x4.png")
    assert targets(tmp_path) == [str(tmp_path / "a_x4.png")]


def test_results_in_a_folder_below_the_photos_are_not_upscaled_again(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "out" / "a.png")
    assert targets(tmp_path, output=tmp_path / "out") == [str(tmp_path / "out" / "a.png")]


def test_an_output_above_the_photos_hides_none(tmp_path):
    save(tmp_path / "in" / "a.png")
    assert targets(tmp_path / "in", output=tmp_path) == [str(tmp_path / "a.png")]


def test_two_photos_with_one_result_are_both_named(tmp_path):
    one, other = save(tmp_path / "a.png"), save(tmp_path / "a.jpg")
    with pytest.raises(TocsrError, match="a result of its own") as raised:
        targets(one, other)
    assert str(one) in raised.value.message
    assert str(other) in raised.value.message


def test_a_result_never_overwrites_a_photo(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(TocsrError, match="must not overwrite a photo"):
        targets(tmp_path, output=tmp_path, overwrite=True)


def test_a_link_to_the_photos_is_seen_through(tmp_path):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(TocsrError, match="must not overwrite a photo"):
        targets(tmp_path / "in", output=tmp_path / "link")


def test_several_photos_do_not_fit_one_file(tmp_path):
    with pytest.raises(TocsrError, match="output must be a folder for several photos"):
        targets(tmp_path / "a.png", tmp_path / "b.png", output=tmp_path / "c.png")


def test_an_output_that_is_another_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TocsrError, match="output must be a folder or an image file"):
        targets(tmp_path / "a.png", output=tmp_path / "notes.txt")


def test_a_format_that_contradicts_the_output_is_refused(tmp_path):
    with pytest.raises(TocsrError, match="contradict each other"):
        targets(tmp_path / "a.png", output=tmp_path / "b.png", format="jpg")


def test_a_folder_without_photos_is_a_usage_error(tmp_path):
    with pytest.raises(TocsrError, match="none found in") as raised:
        targets(tmp_path)
    assert raised.value.code is ExitCode.USAGE


# ---- the run


def test_a_run_writes_what_the_upscaler_gives(tmp_path, toy_model, photo):
    write_image(tmp_path / "a.png", Picture(photo), "png")
    config = UpscaleConfig(inputs=[tmp_path / "a.png"], model=toy_model, seed=3, tile=32)
    result = run(config)
    assert result["done"] == [str(tmp_path / "a_x4.png")]
    expected = Upscaler.from_pretrained(toy_model)(photo, seed=3, tile=32)
    assert np.array_equal(read_image(tmp_path / "a_x4.png").rgb, expected)


def test_a_folder_tells_how_many_photos_are_done_and_the_minutes_left(tmp_path, toy_model):
    photos = [save(tmp_path / f"{name}.png") for name in "abc"]
    save(tmp_path / "b_x4.png")  # has its result
    figures = []
    config = UpscaleConfig(inputs=photos, model=toy_model)
    run(config, lambda _label, _done, _total, shown: figures.append(shown))
    assert [shown["of"] for shown in figures] == [2, 2]
    assert figures[0] == {"photos done": 0, "of": 2}


def test_the_minutes_left_are_those_of_photos_like_the_ones_before(monkeypatch):
    times = iter([100.0, 220.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    calls = []
    told = with_time_left(lambda *call: calls.append(call), 5, lambda: 2)
    told("c.png", 1, 4, {})
    assert calls == [("c.png", 1, 4, {"photos done": 2, "of": 5, "minutes left": 3.0})]


def test_alpha_is_upscaled_and_put_back(tmp_path, toy_model, photo):
    alpha = np.full(photo.shape[:2], 90, np.uint8)
    write_image(tmp_path / "a.png", Picture(photo, alpha), "png")
    run(UpscaleConfig(inputs=[tmp_path / "a.png"], model=toy_model))
    assert (read_image(tmp_path / "a_x4.png").alpha == np.full((212, 280), 90)).all()


def test_a_second_run_skips_what_is_done(tmp_path, toy_model):
    config = UpscaleConfig(inputs=[save(tmp_path / "a.png")], model=toy_model)
    run(config)
    before = (tmp_path / "a_x4.png").stat().st_mtime_ns
    result = run(config)
    assert (result["done"], result["skipped"]) == ([], [str(tmp_path / "a_x4.png")])
    assert (tmp_path / "a_x4.png").stat().st_mtime_ns == before


def test_overwrite_makes_it_anew(tmp_path, toy_model):
    photo = save(tmp_path / "a.png")
    (tmp_path / "a_x4.png").write_text("old")
    result = run(UpscaleConfig(inputs=[photo], model=toy_model, overwrite=True))
    assert result["done"] == [str(tmp_path / "a_x4.png")]
    assert read_image(tmp_path / "a_x4.png").rgb.shape == (28, 36, 3)


def test_a_bad_file_in_a_folder_is_named_and_the_rest_goes_on(tmp_path, toy_model):
    folder = tmp_path / "in"
    save(folder / "a.png")
    (folder / "b.png").write_text("no image")
    save(folder / "c.png")
    result = run(UpscaleConfig(inputs=[folder], output=tmp_path / "out", model=toy_model))
    assert [Path(path).name for path in result["done"]] == ["a.png", "c.png"]
    assert list(result["failed"]) == [str(folder / "b.png")]
    assert "must be a PNG, JPEG, WebP, TIFF" in result["failed"][str(folder / "b.png")]


def test_a_missing_photo_is_named_and_the_rest_goes_on(tmp_path, toy_model):
    photos = [tmp_path / "none.png", save(tmp_path / "a.png")]
    result = run(UpscaleConfig(inputs=photos, model=toy_model))
    assert len(result["done"]) == 1
    assert "No such file" in result["failed"][str(tmp_path / "none.png")]


def test_a_result_too_large_for_its_format_fails_before_the_work(tmp_path, toy_model, monkeypatch):
    photo = save(tmp_path / "a.png", (9, 7))
    monkeypatch.setitem(MAX_SIDE, "webp", 35)  # the result has 36 columns
    calls = []
    config = UpscaleConfig(inputs=[photo], model=toy_model, format="webp")
    result = run(config, lambda *call: calls.append(call))
    assert "webp holds sides of at most 35 px" in result["failed"][str(photo)]
    assert calls == []


def test_a_target_that_cannot_be_written_is_named(tmp_path, toy_model):
    photo = save(tmp_path / "a.png")
    (tmp_path / "a_x4.png").mkdir()
    result = run(UpscaleConfig(inputs=[photo], model=toy_model))
    assert "cannot write" in result["failed"][str(photo)]


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path, toy_model, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "in" / name)

    def fills_up(path: Path, *rest) -> None:
        if path.name != "a.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_image(path, *rest)

    monkeypatch.setattr(module, "write_image", fills_up)
    with pytest.raises(TocsrError, match="No space left") as raised:
        run(UpscaleConfig(inputs=[tmp_path / "in"], output=tmp_path / "out", model=toy_model))
    assert raised.value.code is ExitCode.RESOURCES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_memory_that_runs_out_on_a_single_photo_is_its_own_code(tmp_path, toy_model, monkeypatch):
    def too_large(_: Path, deep: bool) -> Picture:
        raise MemoryError

    monkeypatch.setattr(module, "read_image", too_large)
    with pytest.raises(TocsrError) as raised:
        run(UpscaleConfig(inputs=[save(tmp_path / "a.png")], model=toy_model))
    assert raised.value.code is ExitCode.RESOURCES


def test_a_missing_model_ends_the_run(tmp_path):
    config = UpscaleConfig(inputs=[save(tmp_path / "a.png")], model=tmp_path / "nowhere")
    with pytest.raises(TocsrError) as raised:
        run(config)
    assert raised.value.code is ExitCode.MODEL


def test_a_run_prints_nothing(tmp_path, toy_model, capfd):
    run(UpscaleConfig(inputs=[save(tmp_path / "a.png")], model=toy_model))
    assert capfd.readouterr() == ("", "")


# ---- size, colours, metadata


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"upscale": 1}, (70, 53)),
        ({"upscale": 2.5}, (175, 132)),
        ({"upscale": 8}, (560, 424)),
        ({"width": 100}, (100, 76)),
        ({"height": 100}, (132, 100)),
        ({"width": 300, "height": 100}, (132, 100)),
    ],
)
def test_a_result_has_the_size_that_was_asked_for(tmp_path, toy_model, photo, options, size):
    write_image(tmp_path / "a.png", Picture(photo, photo[:, :, 0]), "png")
    output = tmp_path / "b.png"
    config = UpscaleConfig(inputs=[tmp_path / "a.png"], output=output, model=toy_model, **options)
    assert run(config)["failed"] == {}
    picture = read_image(output)
    assert picture.rgb.shape[:2] == picture.alpha.shape == size[::-1]


def test_a_photo_larger_than_the_width_is_named_and_the_rest_goes_on(tmp_path, toy_model):
    photos = [save(tmp_path / "large.png", (90, 20)), save(tmp_path / "small.png", (20, 20))]
    result = run(UpscaleConfig(inputs=photos, model=toy_model, width=60))
    assert "for 90 x 20 pixels they ask for 0.667" in result["failed"][str(photos[0])]
    assert result["done"] == [str(tmp_path / "small_60w.png")]


def test_a_dark_rim_of_hidden_pixels_does_not_bleed_in(tmp_path, toy_model):
    results = []
    for hidden in (0, 255):
        rgb = np.full((24, 24, 3), hidden, np.uint8)
        rgb[8:16, 8:16] = 200
        alpha = np.zeros((24, 24), np.uint8)
        alpha[8:16, 8:16] = 255
        write_image(tmp_path / "a.png", Picture(rgb, alpha), "png")
        run(UpscaleConfig(inputs=[tmp_path / "a.png"], model=toy_model, overwrite=True))
        results.append(read_image(tmp_path / "a_x4.png").rgb)
    assert np.array_equal(*results)  # what was hidden has no say


def test_the_colour_fix_is_applied(tmp_path, toy_model, photo):
    write_image(tmp_path / "a.png", Picture(photo), "png")
    for how in ("none", "adain", "wavelet"):
        output = tmp_path / f"{how}.png"
        run(
            UpscaleConfig(
                inputs=[tmp_path / "a.png"], output=output, model=toy_model, color_fix=how
            )
        )
    off = {
        how: np.abs(read_image(tmp_path / f"{how}.png").rgb.mean((0, 1)) - photo.mean((0, 1))).max()
        for how in ("none", "adain", "wavelet")
    }
    assert max(off["adain"], off["wavelet"]) < off["none"] / 2


def history(path: Path) -> dict:
    with Image.open(path) as image:
        return json.loads(image.getexif()[ExifTags.Base.ProcessingSoftware])


@pytest.mark.parametrize("file_format", ["png", "jpg", "webp", "tif"])
def test_a_result_says_how_it_was_made(tmp_path, toy_model, file_format):
    photo = save(tmp_path / "a.png")
    config = UpscaleConfig(
        inputs=[photo], model=toy_model, format=file_format, seed=3, color_fix="adain", upscale=2
    )
    run(config)
    made = history(tmp_path / f"a_x2.{file_format}")
    model = made.pop("model")
    assert made.pop("engine") == f"onnxruntime {onnxruntime.__version__} cpu float32"
    assert made == {
        "software": f"tocsr {__version__}",
        "upscale": 2,
        "seed": 3,
        "fidelity": 0,
        "color_fix": "adain",
        "tile": 0,
        "width": 18,
        "height": 14,
    }
    assert model == model_checksum(toy_model)


def test_another_model_has_another_checksum(toy_model):
    before = model_checksum(toy_model)
    weights = toy_model / "unet" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert model_checksum(toy_model) != before


def test_stripped_metadata_leaves_the_profile_alone(tmp_path, toy_model):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    path = tmp_path / "a.jpg"
    Image.new("RGB", (9, 7)).save(path, exif=exif, icc_profile=profile, dpi=(300, 300))
    run(UpscaleConfig(inputs=[path], model=toy_model, strip_metadata=True))
    picture = read_image(tmp_path / "a_x4.png")
    assert (picture.exif, picture.dpi, picture.icc) == (None, None, profile)


def test_what_the_camera_wrote_stays_beside_how_it_was_made(tmp_path, toy_model):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    Image.new("RGB", (9, 7)).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300))
    run(UpscaleConfig(inputs=[tmp_path / "a.jpg"], model=toy_model))
    with Image.open(tmp_path / "a_x4.png") as image:
        assert image.getexif()[ExifTags.Base.Make] == "camera"
    assert read_image(tmp_path / "a_x4.png").dpi == pytest.approx((300, 300), abs=0.02)


# ---- standard input and output


def test_a_photo_goes_through_a_pipe(tmp_path, toy_model, photo):
    write_image(tmp_path / "a.png", Picture(photo), "png")
    command = [sys.executable, "-m", "tocsr", "upscale", "-", "-m", str(toy_model)]
    done = subprocess.run(
        command, input=(tmp_path / "a.png").read_bytes(), capture_output=True, check=True
    )
    result = decode_image(io.BytesIO(done.stdout), "standard output").rgb
    assert np.array_equal(result, Upscaler.from_pretrained(toy_model)(photo))


def test_a_pipe_without_a_photo_says_so_and_writes_nothing(toy_model):
    command = [sys.executable, "-m", "tocsr", "upscale", "-", "-m", str(toy_model)]
    done = subprocess.run(command, input=b"no image", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.SOME_FAILED, b"")
    assert b"standard input must be a PNG" in done.stderr
    assert b"Traceback" not in done.stderr
