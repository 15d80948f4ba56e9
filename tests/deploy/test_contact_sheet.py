from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.deploy.configs import EvaluateConfig
from tocsr.deploy.contact_sheet import CELL, GAP, LINE, contact_sheet, draw_sheet
from tocsr.deploy.evaluate import run
from tocsr.deploy.pictures import Chosen, Pictures

ROW = CELL + 2 * LINE  # two lines of words above the crops


def flat(level: int) -> Image.Image:
    return Image.new("RGB", (400, 300), (level, level, level))


def result(count: int) -> dict:
    names = [str(number) for number in range(count)]
    return {
        "images": names,
        "metrics": {"psnr-y": {"title": "PSNR-Y"}},
        "systems": {"one": {"values": {"psnr-y": [20.0] * count}}},
    }


def pictures(worst: list[str], median: str, best: list[str]) -> Pictures:
    chosen = Chosen(metric="psnr-y", system="one", worst=worst, median=median, best=best)
    shown = {name: {"one": flat(int(name)), "HR": flat(100 + int(name))} for name in chosen.names}
    return Pictures(chosen=chosen, of=shown)


def test_rows_are_the_worst_the_median_and_the_best_image_and_columns_its_pictures():
    sheet = contact_sheet(result(5), pictures(["3", "1"], "0", ["4", "2"]))
    assert sheet.size == (2 * CELL + GAP, 3 * ROW)
    for row, name in enumerate((3, 0, 4)):
        middle = row * ROW + 2 * LINE + 30
        assert sheet.getpixel((9, middle)) == (name,) * 3
        assert sheet.getpixel((CELL + GAP + 9, middle)) == (100 + name,) * 3


@pytest.mark.parametrize(
    ("worst", "median", "best", "rows"), [(["0"], "0", [], 1), (["0"], "1", ["1"], 2)]
)
def test_an_image_has_one_row(worst, median, best, rows):
    assert contact_sheet(result(2), pictures(worst, median, best)).height == rows * ROW


def test_captions_name_the_columns_and_the_values():
    named = contact_sheet(result(1), pictures(["0"], "0", []))
    head = np.asarray(named.crop((0, 0, CELL, 2 * LINE)))
    crop = flat(0)
    expected = draw_sheet([[("worst: 0\none, PSNR-Y 20", crop), ("\nHR", crop)]])
    assert np.array_equal(head, np.asarray(expected.crop((0, 0, CELL, 2 * LINE))))
    assert head.min() == 0


def test_evaluate_writes_a_sheet_of_what_models_start_from_and_make(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        hr = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        for folder, image in (("hr", hr), ("lr", hr.resize((8, 8))), ("sr", hr)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image.save(tmp_path / folder / f"{name}.png")
    shown = run(
        EvaluateConfig(
            hr=tmp_path / "hr",
            lr=tmp_path / "lr",
            sr=(tmp_path / "sr",),
            model=(Path("bicubic"),),
            metrics=("psnr-y",),
            num_threads=1,
            output=tmp_path / "result.json",
            sheet=tmp_path / "sheet.png",
        )
    )
    assert shown["sheet"] == str(tmp_path / "sheet.png")
    columns = 4  # the pixels it starts from, the two systems, the reference
    expected = (columns * (CELL + GAP) - GAP, 3 * ROW)
    assert Image.open(tmp_path / "sheet.png").size == expected
