"""docs/paper-map.md is true: each equation is a function that says its number."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tocsr
from tocsr.files import read_json
from tocsr.models.stages import unet_stages
from tocsr.preset_files import preset_folder
from tocsr.verbs import PHASES

PAGE = Path(__file__).parents[1] / "docs" / "paper-map.md"
SOURCE = Path(tocsr.__file__).parent


@dataclass(frozen=True)
class Row:
    """One equation: its number, and where the page says it is."""

    number: int
    function: str
    file: str

    def found(self) -> Any:
        module, name = self.function.rsplit(".", 1)
        return getattr(import_module(module), name)


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head, as they stand."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def in_code(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


ROWS = [
    Row(int(number), in_code(function)[0], in_code(file)[0])
    for number, _, function, file in table("Equations")
]


def equations_named(text: str) -> set[int]:
    """The equations that a text mentions after `Eq.` or `Eqs.`, ranges and lists included."""
    number, joint = r"\d+", r"\s*(?:,|-|and|to)\s*"
    found: set[int] = set()
    for mention in re.findall(rf"\bEqs?\.\s+({number}(?:{joint}{number})*)", text):
        found.update(int(n) for n in re.findall(number, mention))
        for first, last in re.findall(rf"({number})\s*(?:to|-)\s*({number})", mention):
            found.update(range(int(first), int(last) + 1))
    return found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a latent (Eq. 3).", {3}),
        ("(Eqs. 5, 16)", {5, 16}),
        ("(Eqs. 1 to 4)", {1, 2, 3, 4}),
        ("(Eqs. 2-4)", {2, 3, 4}),
        ("(Eqs. 5, 16, 18, 20 to 22)", {5, 16, 18, 20, 21, 22}),
        ("(Eqs. 5 and 4)", {4, 5}),
        ("the loss of Eq.\n    8. Of 9 stages", {8}),
        ("(3.2.3, Eq. 9)", {9}),
        ("Eq. 11: over 12 samples", {11}),
        ("16 channels", set()),
    ],
)
def test_mentions_of_equations_are_read(text, numbers):
    assert equations_named(text) == numbers


def test_every_equation_has_one_row():
    assert [row.number for row in ROWS] == list(range(1, 24))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"Eq. {row.number}")
def test_the_function_exists(row):
    assert callable(row.found())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"Eq. {row.number}")
def test_its_docstring_names_the_equation(row):
    assert row.number in equations_named(inspect.getdoc(row.found()) or "")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"Eq. {row.number}")
def test_it_is_defined_in_the_file_that_the_page_names(row):
    function = inspect.unwrap(row.found())  # from `torch.no_grad`
    assert inspect.getsourcefile(function) == str(SOURCE / row.file)


def test_the_algorithms_are_phases_in_the_order_of_the_recipe():
    phases = {int(row[0]): in_code(row[3]) for row in table("Algorithms")}
    in_order = [verb for number in (2, 1, 3, 4) for verb in phases[number]]
    assert in_order == [verb for verb in PHASES if verb in in_order]


def test_the_stages_are_those_of_the_papers_unet():
    base = read_json(preset_folder("paper") / "unet.json")["base"]
    assert [in_code(row[0])[0] for row in table("Stages")] == [s.name for s in unet_stages(base)]


@pytest.mark.parametrize("page", ["docs/deviations.md", "CONTRIBUTING.md"])
def test_what_a_page_calls_by_its_full_name_exists(page):
    text = (PAGE.parents[1] / page).read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"`(tocsr(?:\.\w+)+)`", text)))
    assert names
    for name in names:
        found: Any = tocsr
        for depth, part in enumerate(name.split(".")[1:], start=2):
            if not hasattr(found, part):
                import_module(".".join(name.split(".")[:depth]))
            found = getattr(found, part)
