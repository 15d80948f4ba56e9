import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.deploy import report
from tocsr.deploy.configs import EvaluateConfig
from tocsr.deploy.evaluate import run
from tocsr.deploy.pictures import MAX_SIDE, Chosen, choose
from tocsr.errors import TocsrError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path) -> Path:
    """Six references, and results that are off by 1 to 6 levels and by one more."""
    for number in range(6):
        rng = np.random.default_rng(number)
        hr = rng.integers(40, 200, (32, 48, 3), dtype=np.uint8)
        save(tmp_path / "hr" / f"{number}.png", hr)
        save(tmp_path / "near" / f"{number}.png", hr + np.uint8(number + 1))
        save(tmp_path / "far" / f"{number}.png", hr + np.uint8(number + 2))
        save(tmp_path / "lr" / f"{number}.png", hr[::4, ::4])
    return tmp_path


def evaluate(folders: Path, **options) -> tuple[str, dict, dict]:
    """The page, the result file, and what the page holds."""
    systems = {} if "model" in options else {"sr": (folders / "near", folders / "far")}
    config = EvaluateConfig(
        hr=folders / "hr",
        metrics=("psnr-y", "ssim-y"),
        num_threads=1,
        output=folders / "result.json",
        report=folders / "out" / "report.html",
        **systems,
        **options,
    )
    run(config)
    page = config.report.read_text(encoding="utf-8")
    return page, json.loads(config.output.read_text()), json.loads(DATA.search(page)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"report": Path("r.htm")}, r"report must name a \.html file, got r\.htm"),
        ({"sheet": Path("s.jpg")}, r"sheet must name a \.png file, got s\.jpg"),
        ({"num_shown": 0}, "num_shown must be at least 1, got 0"),
        ({"shown_by": "psnr-y"}, "neither is asked for"),
    ],
)
def test_options_of_reports_that_do_not_fit_are_refused(options, message):
    with pytest.raises(TocsrError, match=message):
        EvaluateConfig(hr=Path("h"), sr=(Path("s"),), **options)


def test_the_page_holds_the_whole_result_file(folders):
    _, result, data = evaluate(folders)
    assert data["result"] == result


def test_the_page_fetches_nothing(folders):
    page, _, _ = evaluate(folders)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|url\(|@import|<link|\ssrc=|\shref=", page)


def test_no_text_of_the_result_ends_the_script_that_holds_it(folders):
    for kind in ("hr", "near", "far"):
        (folders / kind / "0.png").rename(folders / kind / "<b>&'.png")
    page, result, data = evaluate(folders)
    assert "<b>&'" in result["images"]
    assert data["result"] == result
    assert "<b>&'" not in page


def test_pictures_are_of_the_worst_and_the_best_images_in_every_way(folders):
    _, _, data = evaluate(folders, num_shown=2)
    assert data["chosen"]["worst"] == ["5", "4"]
    assert data["chosen"]["best"] == ["0", "1"]
    assert list(data["pictures"]) == ["5", "0", "4", "1"]
    assert list(data["pictures"]["5"]) == ["near", "far", "HR"]
    uris = [uri for columns in data["pictures"].values() for uri in columns.values()]
    assert all(uri.startswith("data:image/webp;base64,") for uri in uris)


def test_a_model_is_shown_beside_what_it_started_from(folders, toy_model):
    _, _, data = evaluate(folders, model=(toy_model,), lr=folders / "lr", num_shown=1)
    columns = ["LR, its pixels", "LR, bicubic", "model", "HR"]
    assert [list(shown) for shown in data["pictures"].values()] == [columns, columns]


def test_bicubic_is_shown_once(folders):
    _, _, data = evaluate(folders, model=(Path("bicubic"),), lr=folders / "lr", num_shown=1)
    assert list(next(iter(data["pictures"].values()))) == ["LR, its pixels", "bicubic", "HR"]


def test_pictures_keep_to_the_bound_from_both_ends_inwards(folders, monkeypatch):
    _, _, whole = evaluate(folders, num_shown=2)
    sizes = [sum(map(len, columns.values())) for columns in whole["pictures"].values()]
    monkeypatch.setattr(report, "MAX_PICTURE_BYTES", sum(sizes[:2]))
    _, _, data = evaluate(folders, num_shown=2)
    assert list(data["pictures"]) == ["5", "0"]
    assert data["left_out"] == ["4", "1"]


def test_of_a_large_image_the_middle_is_shown(tmp_path):
    wide = np.zeros((16, 3 * MAX_SIDE, 3), np.uint8)
    wide[:, MAX_SIDE : 2 * MAX_SIDE] = 200
    for kind in ("hr", "near", "far"):
        save(tmp_path / kind / "a.png", wide)
    _, _, data = evaluate(tmp_path)
    uri = data["pictures"]["a"]["HR"]
    assert uri == report.data_uri(Image.new("RGB", (MAX_SIDE, 16), (200, 200, 200)))


def test_a_metric_that_is_not_computed_cannot_choose(folders):
    with pytest.raises(TocsrError, match="got niqe of psnr-y, ssim-y"):
        evaluate(folders, shown_by="niqe")


# ---- which images


def ranking(values: list[float | str], higher_is_better: bool, num_shown: int) -> Chosen:
    result = {
        "images": [str(number) for number in range(len(values))],
        "metrics": {"m": {"higher_is_better": higher_is_better}},
        "systems": {"first": {"values": {"m": values}}, "second": {"values": {"m": []}}},
    }
    return choose(result, "", num_shown)


@pytest.mark.parametrize("higher", [True, False])
def test_images_are_ranked_by_the_direction_of_the_metric(higher):
    chosen = ranking([3.0, 1.0, 2.0, 5.0, 4.0], higher, 2)
    ends = (["1", "2"], ["3", "4"])
    assert (chosen.worst, chosen.best) == (ends if higher else ends[::-1])
    assert (chosen.metric, chosen.system, chosen.median) == ("m", "first", "0")


def test_an_image_without_a_value_is_the_worst_and_an_infinite_one_the_best():
    chosen = ranking(["inf", 1.0, "nan"], True, 1)
    assert (chosen.worst, chosen.best, chosen.median) == (["2"], ["0"], "1")


@pytest.mark.parametrize("count", range(1, 7))
def test_every_image_is_named_once_however_few_there_are(count):
    chosen = ranking([float(number) for number in range(count)], True, 4)
    assert len(set(chosen.names)) == len(chosen.names) == count
    assert not set(chosen.worst) & set(chosen.best)
    assert chosen.worst[0] == "0"
    assert (chosen.best or chosen.worst)[0] == str(count - 1)


# ---- in a browser


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_tables_plots_list_and_pictures_without_an_error(folders):
    page, _, _ = evaluate(folders, num_shown=2)
    # what goes wrong in the page is written where the dump shows it
    watch = "<script>onerror = m => document.documentElement.dataset.failed = m;</script>"
    file = folders / "watched.html"
    file.write_text(page.replace("<head>", f"<head>{watch}", 1), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
        f"--user-data-dir={folders / 'profile'}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    environment = os.environ | {"HOME": str(folders)}
    dump = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=True
    ).stdout
    assert "data-failed" not in dump
    drawn = re.sub("<script.*?</script>", "", dump, flags=re.DOTALL)
    assert drawn.count('<svg viewBox="') == 2  # a plot for each metric
    assert "worst 1: 5" in drawn
    assert "best 2: 1" in drawn
    assert 'aria-sort="none"' in drawn
    assert len(re.findall(r'<img id="\w+" alt="5, \w+" src="data:image/webp', drawn)) == 3
