import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.deploy import test_sets
from tocsr.deploy.configs import DegradeConfig, EvaluateConfig
from tocsr.deploy.degrade import run as degrade_photos
from tocsr.deploy.evaluate import run
from tocsr.deploy.metrics.psnr import psnr_y
from tocsr.deploy.metrics.table import METRICS
from tocsr.deploy.systems import labels
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError
from tocsr.options import read_config

NAMES = ["a", "b", "sub/c"]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image(seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path) -> Path:
    """References, results that are off by 2 and by 4 levels, and small images."""
    for number, name in enumerate(NAMES):
        hr = image(number)
        save(tmp_path / "hr" / f"{name}.png", hr)
        save(tmp_path / "near" / f"{name}.png", hr + np.uint8(2))
        save(tmp_path / "far" / f"{name}.png", hr + np.uint8(4))
        save(tmp_path / "lr" / f"{name}.png", hr[::4, ::4])
    return tmp_path


def evaluate(folders: Path, **options) -> tuple[dict, dict]:
    """What is printed, and the result file."""
    options = {"hr": folders / "hr", "metrics": ["psnr-y", "ssim-y"], "num_threads": 1} | options
    config = EvaluateConfig(output=folders / "result.json", **options)
    return run(config), json.loads(config.output.read_text())


def offset_psnr(levels: int) -> float:
    return 20 * math.log10(255 / (levels * 219 / 255))


# ---- the configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs results, --sr, or a --model"),
        ({"model": [Path("bicubic")]}, "a model needs --hr and one of --lr and --degrade"),
        ({"model": [Path("m")], "hr": Path("h")}, "one of --lr and --degrade"),
        (
            {"model": [Path("m")], "hr": Path("h"), "lr": Path("l"), "degrade": "mild"},
            "one of --lr and --degrade",
        ),
        ({"sr": [Path("s")], "lr": Path("l")}, "lr and degrade are for a --model"),
        ({"sr": [Path("s")], "degrade": "milde"}, "did you mean 'mild'"),
        ({"sr": [Path("s")], "test_set": "realsr-100"}, "a test_set needs its images"),
        ({"sr": [Path("s")], "test_sets": Path("t")}, "finds the images of a test_set"),
        ({"sr": [Path("s")], "factor": -1}, "factor must be at least 1, got -1"),
        ({"sr": [Path("s")], "border": -1}, "border must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    if options.get("degrade") == "milde":
        options = options | {"sr": [], "model": [Path("m")], "hr": Path("h")}
    with pytest.raises(TocsrError, match=message):
        EvaluateConfig(**options)


def test_the_command_line_takes_lists_of_folders():
    config = read_config("evaluate", ["--hr", "h", "--sr=[one,other]", "-o", "r.json"])[0]
    assert (config.hr, config.sr) == (Path("h"), (Path("one"), Path("other")))


# ---- results in files


def test_means_and_values_of_a_constant_offset_have_a_closed_form(folders):
    _, result = evaluate(folders, sr=[folders / "near"])
    system = result["systems"]["near"]
    assert result["images"] == NAMES
    assert system["values"]["psnr-y"] == pytest.approx([offset_psnr(2)] * 3)
    mean = system["means"]["psnr-y"]
    assert [mean[key] for key in ("mean", "low", "high")] == pytest.approx([offset_psnr(2)] * 3)
    assert mean["num_images"] == 3


def test_systems_are_compared_image_by_image(folders):
    shown, result = evaluate(folders, sr=[folders / "far", folders / "near"])
    psnr = next(row for row in result["comparisons"] if row["metric"] == "psnr-y")
    assert (psnr["first"], psnr["second"]) == ("far", "near")
    assert psnr["difference"]["mean"] == pytest.approx(offset_psnr(4) - offset_psnr(2))
    assert (psnr["wins"], psnr["losses"], psnr["ties"]) == (0, 3, 0)
    assert shown["comparisons"][0]["PSNR-Y"] == "-6.021 [-6.021, -6.021]"  # 20 log10(2)


def test_equal_images_are_infinite_in_words_and_ties(folders):
    (folders / "same").symlink_to(folders / "hr")
    _, result = evaluate(folders, sr=[folders / "hr", folders / "same"], metrics=["psnr-y"])
    assert result["systems"]["hr"]["values"]["psnr-y"] == ["inf"] * 3
    comparison = result["comparisons"][0]
    assert (comparison["ties"], comparison["difference"]["mean"]) == (3, 0)


def test_images_are_paired_by_name_whatever_their_format_and_order(folders):
    hr, near = folders / "hr", folders / "near"
    save(near / "b.webp", image(7))
    (near / "b.png").unlink()
    Image.fromarray(np.asarray(Image.open(hr / "b.png")) + np.uint8(2)).save(
        near / "b.webp", lossless=True
    )
    _, result = evaluate(folders, sr=[near], metrics=["psnr-y"])
    assert result["systems"]["near"]["values"]["psnr-y"] == pytest.approx([offset_psnr(2)] * 3)


def test_the_hash_is_of_pixels_and_not_of_files(folders):
    _, before = evaluate(folders, sr=[folders / "near"])
    Image.open(folders / "hr" / "a.png").save(folders / "hr" / "a.webp", lossless=True)
    (folders / "hr" / "a.png").unlink()
    _, after = evaluate(folders, sr=[folders / "near"])
    assert after["data"] == before["data"]
    save(folders / "hr" / "a.webp", image(9))
    assert evaluate(folders, sr=[folders / "near"])[1]["data"] != before["data"]


def test_a_missing_image_is_named_and_fails(folders):
    (folders / "near" / "b.png").unlink()
    save(folders / "near" / "extra.png", image(5))
    with pytest.raises(TocsrError) as raised:
        evaluate(folders, sr=[folders / "near", folders / "far"])
    assert "near lacks b" in raised.value.message
    assert "--hr lacks extra" in raised.value.message
    assert "the 2 that all have with --allow_missing" in raised.value.hint


def test_what_all_have_is_evaluated_where_images_may_be_missing(folders):
    (folders / "near" / "b.png").unlink()
    options = {"sr": [folders / "near", folders / "far"], "allow_missing": True}
    shown, result = evaluate(folders, **options)
    assert result["images"] == ["a", "sub/c"]
    assert result["missing"] == {"near": ["b"]}
    assert shown["missing"] == {"near": 1}
    assert len(result["systems"]["far"]["values"]["psnr-y"]) == 2


def test_two_images_of_one_name_are_refused(folders):
    save(folders / "near" / "a.webp", image(0))
    with pytest.raises(TocsrError, match="must be the only one of its name"):
        evaluate(folders, sr=[folders / "near"])


def test_a_result_of_another_size_is_named(folders):
    save(folders / "near" / "b.png", image(1)[:30])
    with pytest.raises(TocsrError, match="b of near is 48 x 30 and its reference 48 x 32"):
        evaluate(folders, sr=[folders / "near"])


def test_absent_metrics_are_reported_with_what_gets_them(folders):
    shown, result = evaluate(folders, sr=[folders / "near"], metrics=["all"])
    assert result["absent"].keys() == shown["absent"].keys()
    assert result["absent"].keys() == {name for name, row in METRICS.items() if not row.measure}
    assert "pip download" in shown["absent"]["niqe"]
    assert "stlpips" not in result["systems"]["near"]["values"]


def test_the_result_says_how_it_was_computed(folders):
    _, result = evaluate(folders, sr=[folders / "near"], border=3)
    assert result["protocol"]["border"] == 3
    assert "BT.601" in result["metrics"]["psnr-y"]["protocol"]
    assert result["versions"].keys() >= {"tocsr", "torch", "numpy"}
    assert result["data"]["reference images"]["num_images"] == 3


def test_systems_are_called_by_what_tells_them_apart():
    paths = [Path("x/one/sr"), Path("x/two/sr"), Path("bicubic")]
    assert list(labels(paths)) == ["one/sr", "two/sr", "bicubic"]
    with pytest.raises(TocsrError, match="must be named once"):
        labels([Path("a"), Path("a")])


# ---- models


def test_bicubic_is_pillows(folders):
    options = {"model": [Path("bicubic")], "lr": folders / "lr", "save": folders / "saved"}
    _, result = evaluate(folders, **options)
    hr, lr = image(0), Image.fromarray(image(0)[::4, ::4])
    larger = np.asarray(lr.resize((48, 32), Image.Resampling.BICUBIC))
    assert result["systems"]["bicubic"]["values"]["psnr-y"][0] == psnr_y(larger, hr)
    assert np.array_equal(np.asarray(Image.open(folders / "saved/bicubic/a.png")), larger)


def test_a_model_starts_from_the_low_resolution_images(folders, toy_model):
    _, result = evaluate(folders, model=[toy_model], lr=folders / "lr", seed=3)
    expected = Upscaler.from_pretrained(toy_model, 1)(image(0)[::4, ::4], 3)
    assert result["systems"]["model"]["values"]["psnr-y"][0] == psnr_y(expected, image(0))
    assert "low-resolution images" in result["data"]


def test_a_model_and_files_stand_side_by_side(folders, toy_model):
    _, result = evaluate(folders, sr=[folders / "near"], model=[toy_model], lr=folders / "lr")
    assert list(result["systems"]) == ["near", "model"]


def test_degraded_images_are_those_of_the_verb_degrade(folders):
    made = DegradeConfig(
        inputs=[folders / "hr"], output=folders / "pairs", degradation="mild", seed=5
    )
    degrade_photos(made)
    here = {"model": [Path("bicubic")], "degrade": "mild", "seed": 5}
    there = {"model": [Path("bicubic")], "lr": folders / "pairs" / "lr"}
    _, first = evaluate(folders, **here)
    _, second = evaluate(folders, **there)
    assert first["data"] == second["data"]
    assert first["protocol"]["low_resolution"]["name"] == "mild"


def test_a_model_of_another_factor_is_refused(folders, toy_model):
    with pytest.raises(TocsrError, match=r"at factor 2, \S+ has 4"):
        evaluate(folders, model=[toy_model], degrade="bicubic", factor=2)


def test_a_folder_that_is_no_model_is_refused(folders):
    with pytest.raises(
        TocsrError, match="a model must be one of bicubic, lanczos, or a folder"
    ) as raised:
        evaluate(folders, model=[folders / "near"], lr=folders / "lr")
    assert raised.value.code is ExitCode.MODEL


def test_a_model_as_distill_wrote_it_is_a_system(folders, finished_runs):
    model = finished_runs / "distill" / "model"
    _, result = evaluate(folders, model=[model], lr=folders / "lr")
    values = result["systems"]["model"]["values"]["psnr-y"]
    assert all(value > 5 for value in values)  # noise and its reference are 8 dB apart


# ---- test sets


def stable_sr(folder: Path, count: int) -> Path:
    """Some images in the layout of StableSR's test sets."""
    row = test_sets.TEST_SETS["realsr-100"]
    for number in range(count):
        save(folder / row.hr / f"{number}.png", image(number))
        save(folder / row.lr / f"{number}.png", image(number)[::4, ::4])
    return folder


def test_a_test_set_that_is_not_whole_is_refused(tmp_path):
    sets = stable_sr(tmp_path / "sets", 2)
    options = {"hr": None, "model": [Path("bicubic")], "test_set": "realsr-100"}
    with pytest.raises(TocsrError, match="realsr-100 has 100 images, got 2"):
        evaluate(tmp_path, test_sets=sets, **options)


def test_a_test_set_of_other_images_is_refused(tmp_path, monkeypatch):
    row = test_sets.TEST_SETS["realsr-100"]
    smaller = test_sets.NamedSet(
        about="", hr=row.hr, lr=row.lr, num_images=2, hr_sha256="known", lr_sha256="known"
    )
    monkeypatch.setitem(test_sets.TEST_SETS, "realsr-100", smaller)
    sets = stable_sr(tmp_path / "sets", 2)
    options = {"hr": None, "model": [Path("bicubic")], "test_set": "realsr-100"}
    with pytest.raises(TocsrError, match="references of the test set realsr-100 must have"):
        evaluate(tmp_path, test_sets=sets, **options)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("drealsr-93", "their pixels are not checked, as no checksum of this set is known"),
        ("realsr-100", "and their pixels are the known ones"),
    ],
)
def test_an_evaluation_says_what_of_the_test_set_was_checked(tmp_path, monkeypatch, name, said):
    row = test_sets.TEST_SETS["realsr-100"]
    sets = stable_sr(tmp_path / "sets", 2)
    options = {"hr": sets / row.hr, "sr": [sets / row.hr], "metrics": ["psnr-y"]}
    known = evaluate(tmp_path, **options)[1]["data"]["reference images"]["sha256"]
    two = replace(row, num_images=2, lr_sha256="", hr_sha256=known if name == "realsr-100" else "")
    monkeypatch.setitem(test_sets.TEST_SETS, name, two)
    shown, result = evaluate(tmp_path, test_set=name, **options)
    assert shown["test set"].startswith(f"{name}: 2 images, as many as it has")
    assert shown["test set"].endswith(said)
    assert result["protocol"]["test_set_checked"] == shown["test set"]
    assert result["protocol"]["test_set_hash_known"] is (name == "realsr-100")


@pytest.mark.parametrize("name", ["drealsr-93", "div2k-val"])
def test_sets_that_were_not_at_hand_have_no_checksum(name):
    row = test_sets.TEST_SETS[name]
    assert (row.hr_sha256, row.lr_sha256) == ("", "")


def test_an_absent_test_set_says_where_it_comes_from(tmp_path):
    options = {"hr": None, "model": [Path("bicubic")], "test_set": "drealsr-93"}
    with pytest.raises(TocsrError, match="drealsr-93 is absent") as raised:
        evaluate(tmp_path, test_sets=tmp_path, **options)
    assert "StableSR-TestSets" in raised.value.hint


@pytest.mark.parametrize("name", test_sets.TEST_SETS)
def test_every_test_set_holds_as_many_images_as_its_name_says(name):
    expected = {"realsr-100": 100, "drealsr-93": 93, "div2k-val": 3000}
    assert test_sets.named_set(name).num_images == expected[name]
