import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.data.degrade import degrade
from tocsr.data.images import to_tensor, to_uint8
from tocsr.deploy import degrade as module
from tocsr.deploy.configs import DegradeConfig
from tocsr.deploy.degrade import index_of, plan, run
from tocsr.deploy.image_files import read_image
from tocsr.deploy.preview import MAX_ROWS, preview
from tocsr.errors import ExitCode, TocsrError
from tocsr.options import read_config


def save(path: Path, size: tuple[int, int] = (26, 19), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    save(tmp_path / "in" / "a.png", seed=1)
    save(tmp_path / "in" / "sub" / "b.webp", (40, 32), seed=2)
    return tmp_path / "in"


def made(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def settings(photos: Path, **options) -> DegradeConfig:
    return DegradeConfig(inputs=[photos], output=photos.parent / "out", num_threads=1, **options)


# ---- the configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": []}, "at least one photo"),
        ({"factor": -1}, "factor must be at least 1, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_threads": -1}, "num_threads must be at least 0, got -1"),
        ({"degradation": "harde"}, "called 'harde'; did you mean 'hard'"),
        ({"output": Path(__file__)}, r"output must be a folder to write, \S+ is a file"),
    ],
)
def test_a_value_out_of_range_is_refused(options, message):
    with pytest.raises(TocsrError, match=message):
        DegradeConfig(**{"inputs": [Path("a.png")], "output": Path("out"), **options})


def test_the_command_line_takes_files_a_folder_and_a_degradation():
    argv = ["a.png", "b", "-o", "out", "--degradation", "mild", "--factor", "3", "--seed", "7"]
    config = read_config("degrade", argv)[0]
    assert (config.inputs, config.output) == ([Path("a.png"), Path("b")], Path("out"))
    assert (config.degradation, config.factor, config.seed) == ("mild", 3, 7)


# ---- what is read and written


def test_a_run_writes_pairs_in_mirrored_folders_a_record_and_a_sheet(photos):
    result = run(settings(photos, degradation="mild"))
    out = photos.parent / "out"
    pairs = ["hr/a.png", "hr/sub/b.png", "lr/a.png", "lr/sub/b.png"]
    assert made(out) == [*pairs, "pairs.json", "preview.png"]
    assert result["done"] == [str(out / "lr" / "a.png"), str(out / "lr" / "sub" / "b.png")]
    assert result["preview"] == str(out / "preview.png")
    record = json.loads((out / "pairs.json").read_text())
    assert (record["factor"], record["seed"]) == (4, 0)
    assert record["degradation"]["name"] == "mild"
    assert record["degradation"]["second"]["jpeg_range"] == [60, 100]


def test_the_photo_loses_its_last_rows_and_columns_to_fit_the_factor(photos):
    run(settings(photos, factor=4))
    hr = read_image(photos.parent / "out" / "hr" / "a.png").rgb
    assert np.array_equal(hr, read_image(photos / "a.png").rgb[:16, :24])
    assert read_image(photos.parent / "out" / "lr" / "a.png").rgb.shape == (4, 6, 3)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("degradation", ["bicubic", "hard"])
def test_the_low_resolution_file_is_the_degraded_photo(photos, factor, degradation):
    run(settings(photos, degradation=degradation, factor=factor, seed=3))
    hr = read_image(photos.parent / "out" / "hr" / "sub" / "b.png").rgb
    lr = degrade(to_tensor(hr)[None], factor, degradation, 3, [index_of("sub/b.webp")])
    written = read_image(photos.parent / "out" / "lr" / "sub" / "b.png").rgb
    assert np.array_equal(written, to_uint8(lr[0]))


def test_a_pair_does_not_depend_on_the_other_photos(photos, tmp_path):
    run(settings(photos, degradation="hard"))
    save(photos / "0.png", seed=9)
    alone = DegradeConfig(inputs=[photos / "a.png"], output=tmp_path / "alone", degradation="hard")
    run(alone)
    run(settings(photos, degradation="hard"))
    first, second = (folder / "lr" / "a.png" for folder in (tmp_path / "out", tmp_path / "alone"))
    assert first.read_bytes() == second.read_bytes()


def test_names_and_seeds_make_different_pairs(tmp_path):
    folder = tmp_path / "in"
    for name in "ab":
        save(folder / f"{name}.png", seed=0)  # the same pixels
    lrs = set()
    for seed in (0, 1):
        output = tmp_path / str(seed)
        run(DegradeConfig(inputs=[folder], output=output, degradation="hard", seed=seed))
        lrs |= {(output / "lr" / f"{name}.png").read_bytes() for name in "ab"}
    assert len(lrs) == 4


def test_the_index_of_a_name_is_that_of_the_first_version():
    assert index_of("a.png") == 9153304788650147672


def test_transparency_is_left_out(tmp_path):
    rgba = np.full((8, 8, 4), 90, np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    run(DegradeConfig(inputs=[tmp_path / "a.png"], output=tmp_path / "out"))
    assert Image.open(tmp_path / "out" / "hr" / "a.png").mode == "RGB"


# ---- a second run


def test_a_second_run_skips_what_is_done(photos):
    run(settings(photos))
    lr = photos.parent / "out" / "lr" / "a.png"
    before = lr.stat().st_mtime_ns
    result = run(settings(photos))
    assert (result["done"], len(result["skipped"])) == ([], 2)
    assert lr.stat().st_mtime_ns == before


def test_a_pair_of_which_one_file_is_missing_is_made_again(photos):
    run(settings(photos))
    (photos.parent / "out" / "lr" / "a.png").unlink()
    assert run(settings(photos))["done"] == [str(photos.parent / "out" / "lr" / "a.png")]


@pytest.mark.parametrize(
    ("options", "what"),
    [({"seed": 1}, "seed"), ({"factor": 2, "degradation": "mild"}, "factor and degradation")],
)
def test_pairs_of_other_settings_do_not_mix(photos, options, what):
    run(settings(photos))
    with pytest.raises(TocsrError, match=f"were made with another {what}; name another --output"):
        run(settings(photos, **options))


def test_overwrite_makes_pairs_anew(photos):
    run(settings(photos))
    save(photos / "a.png", seed=5)
    assert len(run(settings(photos, overwrite=True))["done"]) == 2
    hr = read_image(photos.parent / "out" / "hr" / "a.png").rgb
    assert np.array_equal(hr, read_image(photos / "a.png").rgb[:16, :24])


def test_a_custom_file_that_changes_is_other_settings(photos, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("base: mild")
    run(settings(photos, degradation=str(file)))
    file.write_text("base: hard")
    module.load_degradation.cache_clear()  # as a process of its own would
    with pytest.raises(TocsrError, match="another degradation"):
        run(settings(photos, degradation=str(file)))


def test_results_below_the_photos_are_no_photos(photos):
    config = DegradeConfig(inputs=[photos], output=photos / "out")
    run(config)
    assert [job.name for job in plan(config)] == ["a.png", "sub/b.webp"]
    inside = DegradeConfig(inputs=[photos], output=photos)
    run(inside)
    assert "lr/a.png" not in [job.name for job in plan(inside)]


# ---- what is refused, and what goes on


def test_a_pair_never_overwrites_a_photo(tmp_path):
    save(tmp_path / "hr" / "a.png")
    config = DegradeConfig(inputs=[tmp_path / "hr"], output=tmp_path, overwrite=True)
    with pytest.raises(TocsrError, match="must not overwrite a photo"):
        run(config)


def test_two_photos_of_one_name_are_both_named(tmp_path):
    one, other = save(tmp_path / "a.png"), save(tmp_path / "a.jpg")
    with pytest.raises(TocsrError, match="a pair of its own") as raised:
        plan(DegradeConfig(inputs=[one, other], output=tmp_path / "out"))
    assert str(one) in raised.value.message
    assert str(other) in raised.value.message


def test_a_photo_named_twice_is_taken_once(photos):
    config = DegradeConfig(inputs=[photos / "a.png", photos, photos / "a.png"], output=Path("out"))
    assert [job.name for job in plan(config)] == ["a.png", "sub/b.webp"]


def test_a_folder_without_photos_is_a_usage_error(tmp_path):
    with pytest.raises(TocsrError, match="none found in") as raised:
        run(DegradeConfig(inputs=[tmp_path], output=tmp_path / "out"))
    assert raised.value.code is ExitCode.USAGE
    assert not (tmp_path / "out").exists()


def test_a_bad_photo_is_named_and_the_rest_goes_on(photos):
    (photos / "bad.png").write_text("no image")
    save(photos / "small.png", (9, 3))
    result = run(settings(photos))
    assert len(result["done"]) == 2
    assert "must be a PNG, JPEG, WebP, TIFF" in result["failed"][str(photos / "bad.png")]
    assert "sides must be at least 4 pixels" in result["failed"][str(photos / "small.png")]


def test_a_full_disk_ends_the_run(photos, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_image", full)
    with pytest.raises(TocsrError, match="No space left") as raised:
        run(settings(photos))
    assert raised.value.code is ExitCode.RESOURCES


# ---- the sheet


def test_the_sheet_shows_each_pair_enlarged_in_place(tmp_path):
    hr, lr = tmp_path / "hr.png", tmp_path / "lr.png"
    # four even quarters, whose middle is their meeting point
    quarters = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    Image.fromarray(quarters.repeat(8, 0).repeat(8, 1)).save(lr)
    Image.fromarray(quarters.repeat(32, 0).repeat(32, 1)).save(hr)
    sheet = preview([("a", lr, hr)], 4)
    for left in (0, 296, 592):
        for row, y in enumerate((20 + 3, 20 + 60)):
            for column, x in enumerate((3, 60)):
                assert sheet.getpixel((left + x, y)) == tuple(quarters[row, column])


def test_the_sheet_spreads_over_all_pairs_and_has_at_most_six(tmp_path):
    pairs = []
    for i in range(20):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
        pairs.append((str(i), tmp_path / f"{i}.png", tmp_path / f"{i}.png"))
    sheet = preview(pairs, 1)
    assert sheet.height == MAX_ROWS * 308
    assert [sheet.getpixel((2, 308 * row + 22))[0] for row in range(MAX_ROWS)] == [
        0, 3, 6, 10, 13, 16,
    ]  # fmt: skip
