"""The bridge to another Python, in which a small package stands for pyiqa."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.deploy.configs import EvaluateConfig
from tocsr.deploy.evaluate import run
from tocsr.deploy.metrics.pyiqa import Pyiqa
from tocsr.deploy.metrics.subject import Subject, pair
from tocsr.errors import ExitCode, TocsrError

PACKAGE = """
print("pyiqa says hello")


def create_metric(name, device):
    if name == "broken":
        raise ValueError("no weights of this metric")
    print("loading", name)
    return lambda image: image[0, {"musiq": 0, "clipiqa": 1, "maniqa-pipal": 2}[name]].mean()
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Puts a pyiqa in the way of Python: its metrics are means of a channel in [0, 1]."""
    (tmp_path / "pyiqa").mkdir()
    (tmp_path / "pyiqa" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "pyiqa-0.1.13.dist-info").mkdir()
    (tmp_path / "pyiqa-0.1.13.dist-info" / "METADATA").write_text("Name: pyiqa\nVersion: 0.1.13\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


def test_each_metric_gets_the_pixels_and_gives_its_value(package):
    pixels = image()
    subjects = pair(pixels[:, ::-1], pixels)
    with Pyiqa(Path(sys.executable)) as pyiqa:
        assert pyiqa.version == "0.1.13"
        for name, channel in (("musiq", 0), ("clipiqa", 1), ("musiq", 0)):
            expected = pixels[:, :, channel].mean() / 255
            assert pyiqa.metric(name)(*subjects) == pytest.approx(expected, rel=1e-5)


def test_what_fails_on_the_other_side_is_an_error(package):
    one = Subject(image())
    with (
        Pyiqa(Path(sys.executable)) as pyiqa,
        pytest.raises(TocsrError, match="ended instead of computing") as raised,
    ):
        pyiqa.metric("broken")(one, one)
    assert raised.value.code is ExitCode.MODEL


def test_a_python_without_pyiqa_is_refused(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(TocsrError, match="ended instead of computing"):
        Pyiqa(Path(sys.executable))


def test_what_is_no_python_is_refused(tmp_path):
    with pytest.raises(TocsrError, match="cannot be started: No such file"):
        Pyiqa(tmp_path / "python")


def test_an_evaluation_names_the_version(package):
    (package / "sr").mkdir()
    Image.fromarray(image()).save(package / "sr" / "a.png")
    options = {"pyiqa": Path(sys.executable), "metrics": ("musiq", "maniqa"), "num_threads": 1}
    config = EvaluateConfig(sr=(package / "sr",), output=package / "result.json", **options)
    run(config)
    result = json.loads(config.output.read_text())
    assert result["versions"]["pyiqa"] == "0.1.13"
    assert list(result["systems"]["sr"]["values"]) == ["musiq", "maniqa"]
