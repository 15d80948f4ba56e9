"""docs/cli holds what `--help` prints. After a change of an option: `make docs`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tocsr.verbs import VERBS

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ["tocsr.txt", *(f"{verb}.txt" for verb in VERBS)]

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="argparse of 3.13 lays options out in another way"
)


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    patch = pytest.MonkeyPatch()
    patch.setenv("COLUMNS", "0")  # the script sets it; afterwards it is what it was
    texts = runpy.run_path(str(DOCS / "write_cli_help.py"))["help_texts"]()
    patch.undo()
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_the_documented_help_is_what_the_code_prints(printed, name):
    documented = (DOCS / "cli" / name).read_text(encoding="utf-8")
    assert documented == printed[name], "run: make docs"


def test_every_file_belongs_to_a_verb():
    assert {path.name for path in (DOCS / "cli").iterdir()} == set(NAMES), "run: make docs"


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_wider_than_a_page(name):
    lines = (DOCS / "cli" / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100] == []
