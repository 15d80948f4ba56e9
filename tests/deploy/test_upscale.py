import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.deploy import upscale as module
from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.image_files import MAX_SIDE, Picture, read_image, write_image
from tocsr.deploy.upscale import plan, run
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
    assert "must be a PNG, JPEG or WebP image" in result["failed"][str(folder / "b.png")]


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
    def too_large(_: Path) -> Picture:
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
