"""Our figures for others' images are others' figures: published outputs, published numbers.

OSEDiff (Wu et al., NeurIPS 2024) on RealSR-100: the authors' outputs, and the figures that they
print for them, which pyiqa computed.
"""

import json
from pathlib import Path

import pytest

from tocsr.deploy.configs import EvaluateConfig
from tocsr.deploy.evaluate import run

SHARED = Path(__file__).parents[3] / "shared"
IMAGES = SHARED / "data" / "eval" / "realsr"
WEIGHTS = SHARED / "weights"
# As printed. Half a unit of the last digit is what rounding leaves open, and NIQE has ten times as
# much: where an image is flat its features hang on rounding errors of the sums.
PUBLISHED = {"psnr-y": (25.151, 5e-4), "ssim-y-iqa": (0.7341, 5e-5), "niqe": (5.6476, 5e-4)}


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    """Means over the 100 images by metric."""
    output = tmp_path_factory.mktemp("calibration") / "result.json"
    config = EvaluateConfig(
        hr=IMAGES / "hr",
        sr=[IMAGES / "osediff"],
        metrics=[*PUBLISHED, "ssim-y"],
        metric_weights=WEIGHTS,
        test_set="realsr-100",
        output=output,
        num_threads=1,
    )
    run(config)
    result = json.loads(output.read_text())
    assert result["absent"] == {}
    assert result["protocol"]["test_set_hash_known"]
    return {name: row["mean"] for name, row in result["systems"]["osediff"]["means"].items()}


pytestmark = pytest.mark.skipif(
    not (IMAGES.is_dir() and WEIGHTS.is_dir()),
    reason="needs OSEDiff's outputs on RealSR in ../shared/data/eval and ../shared/weights",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_osediffs_outputs_have_its_published_figures(means, name):
    published, tolerance = PUBLISHED[name]
    assert means[name] == pytest.approx(published, abs=tolerance)


def test_the_published_ssim_is_not_that_of_wang(means):
    # without rounded luma and with negative structure; a protocol must say which
    assert means["ssim-y"] == pytest.approx(0.7329, abs=5e-5)
