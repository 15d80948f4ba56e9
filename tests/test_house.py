"""The rules of the house: who imports whom, who may use what, and presets that are whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tocsr
from tocsr.config import PhaseConfig
from tocsr.options import read_config
from tocsr.preset_files import PRESETS
from tocsr.verbs import PHASES, VERBS, config_class

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(tocsr.__file__).parent
ROOT = Path(__file__).parents[1]

# From the ground up: a room imports from floors below its own, and from itself. The rooms of a
# floor meet only where `SHARED` says so.
FLOORS: list[set[str]] = [
    {"errors"},
    {
        "files",
        "seeding",
        "config",
        "preset_files",
        "restoration",
        "processes",
        "runs",
        "devices",
        "tasks",
    },
    {"diffusion"},
    {"models", "data"},
    {"train", "search", "deploy"},
    {"web"},
    {"verbs", "options", "plans"},
    {"recipe"},
    {"cli"},
    {"__main__"},
]
SHARED = [FLOORS[1], FLOORS[6]]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Package -> where it may be imported; a name that ends in a slash is a folder.
FENCES: dict[str, tuple[str, ...]] = {
    "diffusers": ("models/", "diffusion.py", "deploy/diffusers_pipeline.py"),
    "botorch": ("search/gp.py",),
    "gpytorch": ("search/gp.py",),
    "onnx": ("deploy/export.py",),
    "onnxruntime": ("deploy/onnx_session.py",),
    "openvino": ("deploy/openvino_session.py",),
    "nncf": ("deploy/int8.py",),
    "pyvips": ("deploy/huge.py",),
    "accelerate": ("train/loop.py",),
    "ray": ("tasks.py",),
    "uvicorn": ("web/serve.py",),
    "starlette": ("web/",),
    "torchvision": (),
}


@dataclass(frozen=True)
class Import:
    """One import that happens when the program runs, in whatever function it stands."""

    module: str
    line: int


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node` but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from runtime_nodes(ast.Module(child.orelse, []))
        else:
            yield from runtime_nodes(child)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(path for path in SOURCE.rglob("*.py") if "assets" not in path.parts)
MODULES = {module_name(path): path for path in FILES}


def imports_of(tree: ast.Module) -> list[Import]:
    """What a module imports; `from package import module` counts as the module."""
    found = []
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [
                Import(name if name in MODULES else str(node.module), node.lineno) for name in names
            ]
    return found


def own_imports(path: Path) -> list[Import]:
    """A module's imports from this package, the bare package left out: it imports nothing."""
    return [found for found in imports_of(parsed(path)) if found.module.startswith("tocsr.")]


def room(module: str) -> str:
    return module.split(".")[1]


def may_import(importer: str, imported: str) -> bool:
    below = FLOOR_OF[imported] < FLOOR_OF[importer]
    return below or importer == imported or any({importer, imported} <= group for group in SHARED)


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("train", "models", True),
        ("train", "errors", True),
        ("models", "models", True),
        ("runs", "files", True),
        ("plans", "options", True),
        ("models", "data", False),
        ("search", "train", False),
        ("diffusion", "models", False),
        ("errors", "files", False),
        ("options", "recipe", False),
    ],
)
def test_the_floors_say_who_may_import_whom(importer, imported, expected):
    assert may_import(importer, imported) == expected


def test_imports_for_the_type_checker_alone_do_not_count():
    lines = [
        "if TYPE_CHECKING:",
        "    import torch",
        "else:",
        "    import numpy",
        "def late():",
        "    from tocsr import plans, __version__",
    ]
    found = [i.module for i in imports_of(ast.parse("\n".join(lines)))]
    assert found == ["numpy", "tocsr.plans", "tocsr"]


HOUSE = [path for path in FILES if path != SOURCE / "__init__.py"]


def test_every_room_has_a_floor():
    assert {room(module_name(path)) for path in HOUSE} == FLOOR_OF.keys()


@pytest.mark.parametrize("path", HOUSE, ids=relative)
def test_imports_point_one_way(path):
    own = room(module_name(path))
    wrong = [i for i in own_imports(path) if not may_import(own, room(i.module))]
    assert wrong == []


@pytest.mark.parametrize("siblings", FLOORS[3:5], ids=["what is and eats", "what works on it"])
def test_siblings_never_import_one_another(siblings):
    met = [
        (relative(path), found)
        for path in HOUSE
        if (own := room(module_name(path))) in siblings
        for found in own_imports(path)
        if room(found.module) in siblings - {own}
    ]
    assert met == []


def test_no_modules_import_one_another_in_a_circle():
    graph = {
        name: {found.module for found in own_imports(path)} - {name}
        for name, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_package_itself_imports_nothing():
    body = parsed(SOURCE / "__init__.py").body  # what stands in a function waits until it is called
    at_once = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {found.module for found in imports_of(ast.Module(list(at_once), []))} == {"typing"}


@pytest.mark.parametrize("package", FENCES)
def test_a_package_stays_behind_its_fence(package):
    escaped = [
        (relative(path), found.line)
        for path in FILES
        if not any(
            relative(path).startswith(place) if place.endswith("/") else relative(path) == place
            for place in FENCES[package]
        )
        for found in imports_of(parsed(path))
        if found.module.split(".")[0] == package
    ]
    assert escaped == []


def test_only_the_command_line_prints():
    printing = {
        relative(path)
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert printing == {"cli.py"}


def handlers(node: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """The function that each `except` below `node` stands in, and what it takes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ExceptHandler):
            yield function, ast.unparse(child.type) if child.type else ""
        yield from handlers(child, child.name if isinstance(child, ast.FunctionDef) else function)


def test_only_main_takes_every_error():
    blind = [
        (relative(path), function)
        for path in FILES
        for function, taken in handlers(parsed(path))
        if re.search(r"^$|\b(Base)?Exception\b", taken)
    ]
    assert blind == [("cli.py", "main")]


HEAVY = (
    *("torch", "diffusers", "onnxruntime", "openvino", "botorch", "accelerate", "ray"),
    "starlette",
)
LOADED_BY = f"""
import sys
from tocsr.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert stopped.code == 0, stopped.code
print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("argv", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_heavy(argv):
    command = [sys.executable, "-c", LOADED_BY, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split()) == (0, [])


SHIPPED = sorted(folder.name for folder in PRESETS.iterdir() if folder.is_dir())
CONFIGURED = [verb for verb in VERBS if issubclass(config_class(verb), PhaseConfig)]


@pytest.mark.parametrize("verb", CONFIGURED)
@pytest.mark.parametrize("preset", SHIPPED)
def test_every_preset_configures_every_phase(preset, verb):
    config, _ = read_config(verb, [f"--preset={preset}"])
    assert type(config) is config_class(verb)


@pytest.mark.parametrize("preset", SHIPPED)
def test_every_yaml_file_of_a_preset_is_read(preset):
    read = {"common.yaml", *(f"{verb}.yaml" for verb in CONFIGURED)}
    assert {path.name for path in (PRESETS / preset).glob("*.yaml")} <= read


@pytest.mark.parametrize("preset", SHIPPED)
def test_a_recipe_keeps_the_order_of_the_phases(preset):
    phases = read_config("recipe", [f"--preset={preset}"])[0].phases
    assert list(phases) == [verb for verb in PHASES if verb in phases]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "recipe"])
def test_a_verb_is_a_module_in_its_room(verb):
    assert (SOURCE / VERBS[verb].room / f"{verb.replace('-', '_')}.py").is_file()


@pytest.mark.parametrize("verb", VERBS)
def test_a_configuration_knows_its_verb(verb):
    assert config_class(verb).verb == verb


def paper_plan(verb: str, runs: Path) -> dict[str, Any]:
    from tocsr.plans import plan

    return plan(verb, read_config(verb, ["--preset=paper", f"--runs={runs}"])[0])


def test_the_papers_recipe_is_planned_without_weights(tmp_path):
    assert list(paper_plan("recipe", tmp_path)) == [verb for verb in PHASES if verb != "pretrain"]


def test_the_papers_expanded_unet_has_the_parameters_that_its_shapes_say(tmp_path):
    network = paper_plan("expand-unet", tmp_path)["networks"]["unet"]
    assert network.startswith("859,590,096 parameters")


def test_the_change_log_begins_with_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    match = re.search(r"^## \[?([^\]\s]+)", text, re.MULTILINE)
    assert match is not None
    assert match[1] == tocsr.__version__
