"""FID with random weights against pytorch-fid and clean-fid, and as a figure of sets."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tocsr.deploy.configs import EvaluateConfig
from tocsr.deploy.evaluate import run
from tocsr.deploy.metrics import table
from tocsr.deploy.metrics.fid import SetFigures, clean_resized, load_clean_fid, load_fid
from tocsr.deploy.metrics.inception import Inception, load_inception
from tocsr.deploy.metrics.subject import Subject
from tocsr.deploy.metrics.table import METRICS, load_features, load_metrics
from tocsr.errors import ExitCode, TocsrError

# Sum and sum of squares of the features of pytorch-fid 0.3.0 (on torchvision 0.28.0's blocks), and
# of the same network behind the resizing of clean-fid 0.1.35, of the weights and image made below
PACKAGE = {load_fid: (457.40849, 284.07181), load_clean_fid: (513.33290, 357.62014)}
# Names of the parameters that pytorch-fid's network loads, but for the classifier's
NAMES = "2d8e398d0de0b2b6533383e1017005797e75e76e46a09dd1f1ace740c3ec6a1b"


def random_state() -> dict[str, torch.Tensor]:
    """Weights by which features keep their size from layer to layer."""
    rng, state = np.random.default_rng(0), {}
    for name, tensor in sorted(Inception().state_dict().items()):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        values = rng.standard_normal(tuple(tensor.shape), dtype=np.float32)
        if name.endswith("conv.weight"):
            values *= np.sqrt(2 / tensor[0].numel())
        elif name.endswith("running_var"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values = 0.1 * values + name.endswith("bn.weight")
        state[name] = torch.tensor(values.astype(np.float32))
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file like pytorch-fid's, which holds a classifier too."""
    path = tmp_path_factory.mktemp("fid") / "inception.pth"
    torch.save(random_state() | {"fc.weight": torch.zeros(1008, 2048)}, path)
    return path


def noise_image(seed: int, height: int = 64, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("load", PACKAGE)
def test_features_are_those_of_the_package(load, weights):
    features = load([weights])(Subject(noise_image(1))).double()
    assert features.shape == (2048,)
    # convolutions in single precision, in whatever order the processor takes
    found = (features.sum().item(), features.square().sum().item())
    assert found == pytest.approx(PACKAGE[load], rel=1e-5)


def test_the_network_has_the_parameters_of_the_published_file():
    network = Inception()
    names = "\n".join(sorted(network.state_dict()))
    assert hashlib.sha256(names.encode()).hexdigest() == NAMES
    # of Inception-v3 with 1008 classes, less the classifier
    assert sum(p.numel() for p in network.parameters()) == 23_850_960 - 2049 * 1008


def test_the_border_of_an_average_is_left_out():
    block = Inception().Mixed_5b.eval()
    pool = block.branches[3][0]
    assert pool(torch.ones(1, 1, 4, 4)).eq(1).all()


def test_a_file_without_the_weights_is_refused(tmp_path):
    torch.save({"other": torch.zeros(3)}, tmp_path / "broken.pth")
    with pytest.raises(TocsrError, match=r"broken\.pth does not hold the weights") as raised:
        load_inception(tmp_path / "broken.pth")
    assert raised.value.code is ExitCode.MODEL


def test_clean_resizing_keeps_colours_and_does_not_round():
    flat = np.full((20, 600, 3), (3, 120, 255), np.uint8)
    assert clean_resized(flat) == pytest.approx(np.full((299, 299, 3), (3.0, 120.0, 255.0)))
    found = clean_resized(noise_image(0))
    assert (found.min(), found.max()) == (0, 255)  # the cubic overshoots, and is cut off
    assert np.abs(found - found.round()).max() > 0.4


# ---- a figure of sets


def mean_colour(image: Subject) -> torch.Tensor:
    return torch.tensor(image.rgb.mean(axis=(0, 1)))


def levels(num_images: int, offset: int = 0) -> list[Subject]:
    """Images of one colour each."""
    colours = np.random.default_rng(0).integers(0, 200, (num_images, 3)) + offset
    return [Subject(np.full((2, 2, 3), colour, np.uint8)) for colour in colours]


def figure(num_images: int, offset: int) -> dict:
    sets = SetFigures({"fid": mean_colour})
    for reference, image in zip(levels(num_images), levels(num_images, offset), strict=True):
        sets.take_reference_(reference)
        sets.take_("ours", image)
    return sets.of("ours")["fid"]


def test_a_shifted_set_is_its_shift_squared_apart():
    found = figure(20, 7)
    assert found["value"] == pytest.approx(3 * 7**2)
    assert found["num_images"] == 20


def test_a_set_is_at_distance_0_from_itself():
    assert figure(20, 0)["value"] == pytest.approx(0, abs=1e-6)  # of variances about 3000


@pytest.mark.parametrize(("num_images", "is_noise"), [(499, True), (500, False)])
def test_a_figure_of_few_images_is_marked_as_noise(num_images, is_noise):
    assert figure(num_images, 1)["is_noise"] is is_noise


# ---- in an evaluation


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Three references, and results off by 5; FID is of mean colours."""
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 200, (16, 16, 3), dtype=np.uint8)
        for kind, offset in (("hr", 0), ("near", 5)):
            path = tmp_path / kind / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels + np.uint8(offset)).save(path)
    row = replace(METRICS["fid"], weights=(), load_features=lambda paths: mean_colour)
    monkeypatch.setitem(table.METRICS, "fid", row)
    return tmp_path


def evaluate(folders: Path, **options) -> tuple[dict, dict]:
    """What is printed, and the result file."""
    options = {"metrics": ["psnr-y", "fid"], "metric_weights": folders} | options
    config = EvaluateConfig(
        hr=folders / "hr",
        sr=[folders / "near"],
        output=folders / "result.json",
        num_threads=1,
        **options,
    )
    return run(config), json.loads(config.output.read_text())


def test_a_figure_of_a_set_stands_beside_the_means_and_has_no_value_for_an_image(folders):
    shown, result = evaluate(folders)
    system = result["systems"]["near"]
    assert system["sets"]["fid"]["value"] == pytest.approx(75)  # 3 * 5^2
    assert system["values"].keys() == system["means"].keys() == {"psnr-y"}
    assert (list(result["metrics"]), list(result["set_metrics"])) == (["psnr-y"], ["fid"])
    assert shown["systems"][0]["FID"] == "75.00 (noise: 3 images, fewer than 500)"


def test_a_report_has_the_figure_of_a_set(folders):
    report = folders / "report.html"
    _, result = evaluate(folders, report=report)
    assert json.dumps(result["systems"]["near"]["sets"]) in report.read_text(encoding="utf-8")


def test_the_papers_table_says_that_such_a_figure_is_noise(folders, monkeypatch):
    monkeypatch.setitem(table.METRICS, "fid-clean", METRICS["fid"])
    _, result = evaluate(folders, metrics=["fid-clean"], paper_table="realsr-100")
    ours = result["paper_table"]["rows"][-1]
    assert ours["FID"] == pytest.approx(75)
    assert "FID of fewer than 500 images is noise" in result["paper_table"]["images"]


def test_fid_without_its_file_says_where_it_comes_from():
    for folder in (None, Path("nowhere")):
        ready, absent = load_features(METRICS, folder)
        assert ready == {}
        assert absent.keys() == {"fid", "fid-clean"}
        assert "releases/download/fid_weights/pt_inception-2015-12-05" in absent["fid"]


def test_fid_as_a_metric_of_one_image_says_what_it_is():
    ready, absent = load_metrics({"fid": METRICS["fid"]}, None)
    assert ready == {}
    assert "two sets of images" in absent["fid"]
