import re
from pathlib import Path

import pytest

import tocsr
from tocsr.deploy.paper_table import model_costs, paper_table, published_table, shown_table
from tocsr.deploy.test_sets import TEST_SETS
from tocsr.errors import TocsrError
from tocsr.preset_files import SHIPPED_MODEL

SOURCE = Path(tocsr.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "systems.md"


def result(**means: float) -> dict:
    return {
        "images": ["a"] * 100,
        "protocol": {"test_set": None, "test_set_hash_known": False},
        "systems": {
            "ours": {"means": {name: {"mean": mean} for name, mean in means.items()}, "sets": {}}
        },
        "absent": {"lpips": "needs its weights"},
    }


@pytest.mark.parametrize("test_set", TEST_SETS)
def test_every_row_of_a_published_table_has_every_column(test_set):
    table = published_table(test_set)
    assert {len(row) for row in table.rows.values()} == {len(table.columns)}
    assert "TOC-SR" in table.rows


def test_tables_of_real_photos_hold_methods_of_the_first_table():
    first = published_table("div2k-val").rows
    assert len(first) == 12
    for test_set in ("realsr-100", "drealsr-93"):
        assert published_table(test_set).rows.keys() < first.keys()


def test_a_set_without_a_table_is_refused():
    with pytest.raises(TocsrError, match="no table of a test set 'realsr'") as raised:
        published_table("realsr")
    assert "realsr-100" in raised.value.hint


def test_our_row_stands_in_the_columns_of_the_paper():
    table = paper_table("realsr-100", result(**{"psnr-y": 25.5, "ssim-y": 0.7}), {})
    ours = {"method": "ours", "published": False, "PSNR": 25.5}
    assert table["rows"][-1] == ours | {"LPIPS": None, "FID": None, "MUSIQ": None}
    osediff = next(row for row in table["rows"] if row["method"] == "OSEDiff")
    assert osediff["PSNR"] == 25.15
    shown = shown_table(table)["table"][-1]
    assert shown == {
        "method": "ours (measured here)", "PSNR": "25.5", "LPIPS": "-", "FID": "-", "MUSIQ": "-"
    }  # fmt: skip


def test_every_empty_column_has_its_reason():
    empty = paper_table("div2k-val", result(**{"psnr-y": 25.5, "niqe": 4.0}), {})["empty"]
    assert empty["LPIPS"] == "needs its weights"
    assert empty["MUSIQ"] == "musiq is not among the --metrics"
    assert empty["GMACs"] == empty["params M"] == empty["steps"]
    assert "--model" in empty["GMACs"]
    assert empty.keys() == {"LPIPS", "FID", "MUSIQ", "steps", "GMACs", "params M"}


def test_a_table_says_whether_ours_are_of_the_same_images():
    about = result()
    said = paper_table("realsr-100", about, {})["images"]
    assert said == "ours are of 100 images that were not compared with realsr-100: --test_set does"
    about["protocol"] = {"test_set": {"name": "realsr-100"}, "test_set_hash_known": True}
    assert paper_table("realsr-100", about, {})["images"].endswith("checked by their pixels")


def test_a_model_is_counted_by_encoder_unet_decoder_and_whole():
    costs = model_costs(SHIPPED_MODEL)
    assert list(costs) == ["encoder", "unet", "decoder", "whole"]
    for of in ("params", "gmacs"):
        whole = costs["whole"][of]
        assert whole == pytest.approx(sum(costs[part][of] for part in list(costs)[:3]))
    table = paper_table("div2k-val", result(), {"ours": SHIPPED_MODEL})
    row = table["rows"][-1]
    assert (row["steps"], row["GMACs"]) == (1, costs["whole"]["gmacs"])
    assert row["params M"] == costs["whole"]["params"] / 1e6


@pytest.mark.parametrize("test_set", TEST_SETS)
def test_the_page_of_systems_has_the_published_figures(test_set):
    section = DOCUMENT.read_text(encoding="utf-8").split(f"### {test_set}\n")[1].split("#")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.split("\n") if line
    ]
    table = published_table(test_set)
    assert rows[0] == ["method", *table.columns]
    written = {
        method: [None if figure == "-" else float(figure) for figure in figures]
        for method, *figures in rows[2:]
    }
    assert written == table.rows


@pytest.mark.parametrize("heading", ["What each is", "What of it is here"])
def test_the_page_of_systems_has_a_row_for_each(heading):
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    methods = re.findall(r"^\| ([\w-]+) \|", section, re.MULTILINE)[1:]
    assert methods == list(published_table("div2k-val").rows)


def test_files_that_the_page_of_systems_names_are_there():
    named = re.findall(r"`([\w/]+\.py)`", DOCUMENT.read_text(encoding="utf-8"))
    assert [name for name in named if not (SOURCE / name).is_file()] == []
