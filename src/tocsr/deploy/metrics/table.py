"""The metrics: a row for each says what it is, by which protocol, and what it needs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tocsr.deploy.metrics.dists import load_dists
from tocsr.deploy.metrics.fid import load_clean_fid, load_fid
from tocsr.deploy.metrics.lpips import load_lpips
from tocsr.deploy.metrics.metric import Metric, Weights
from tocsr.deploy.metrics.niqe import NaturalPhotos, niqe
from tocsr.deploy.metrics.psnr import luma_psnr, rgb_psnr
from tocsr.deploy.metrics.ssim import iqa_ssim, luma_ssim, rgb_ssim
from tocsr.deploy.metrics.stlpips import load_stlpips
from tocsr.errors import ExitCode, TocsrError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from tocsr.deploy.metrics.pyiqa import Pyiqa
    from tocsr.deploy.metrics.subject import Subject


def _of_pyiqa(title: str, name: str, what: str) -> Metric:
    return Metric(
        title=title,
        higher_is_better=True,
        span="0 to 100" if name == "musiq" else "0 to 1",
        protocol=f"{what}; pyiqa's '{name}', of the version that the result names",
        needs_reference=False,
        pyiqa=name,
    )


def _load_niqe(paths: Sequence[Path]) -> Callable[[Subject, Subject], float]:
    natural = NaturalPhotos.from_file(paths[0])

    def measure(image: Subject, reference: Subject) -> float:
        del reference
        return niqe(image.gray.round(), natural)

    return measure


_Y = "Y of Y'CbCr, ITU-R BT.601 in studio swing (MATLAB's rgb2ycbcr)"
_TORCHVISION = "https://download.pytorch.org/models/"
_FID_FILE = "pt_inception-2015-12-05-6726825d.pth"
_FID_RELEASE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
_INCEPTION = Weights(_FID_FILE, "6726825d", f"{_FID_RELEASE}{_FID_FILE}")
_FID = "Heusel et al. 2017, the 2048 pooled features of TensorFlow's Inception-v3 of 2015"
_SSIM = "11 x 11 Gaussian window of sigma 1.5, K 0.01 and 0.03, L 255, windows inside the image"

METRICS: dict[str, Metric] = {
    "psnr-y": Metric(
        title="PSNR-Y",
        higher_is_better=True,
        unit="dB",
        span="0 to infinity",
        digits=3,
        protocol=f"{_Y}, not rounded, peak 255; pyiqa's psnr with color_space='ycbcr'",
        measure=luma_psnr,
    ),
    "ssim-y": Metric(
        title="SSIM-Y",
        higher_is_better=True,
        span="-1 to 1",
        protocol=f"{_Y}, not rounded; {_SSIM}; Wang et al. 2004, scikit-image's figure",
        measure=luma_ssim,
    ),
    "ssim-y-iqa": Metric(
        title="SSIM-Y (pyiqa)",
        higher_is_better=True,
        span="0 to 1",
        protocol=f"{_Y}, rounded to levels; {_SSIM}; contrast and structure at least 0; pyiqa's "
        "ssim with color_space='ycbcr', which OSEDiff and later papers print",
        measure=iqa_ssim,
    ),
    "psnr-rgb": Metric(
        title="PSNR",
        higher_is_better=True,
        unit="dB",
        span="0 to infinity",
        digits=3,
        protocol="RGB, one mean squared error over the three channels, peak 255",
        measure=rgb_psnr,
    ),
    "ssim-rgb": Metric(
        title="SSIM",
        higher_is_better=True,
        span="-1 to 1",
        protocol=f"RGB, the mean over the three channels; {_SSIM}",
        measure=rgb_ssim,
    ),
    "stlpips": Metric(
        title="ST-LPIPS",
        higher_is_better=False,
        span="0 to about 1",
        protocol="Ghildyal and Liu 2022, AlexNet trunk, RGB in [-1, 1]; not LPIPS",
        weights=(
            Weights(
                "stlpips_alex.safetensors",
                "73f4d691905e15e074ca60ee43abdf0a0b844b17feaea7ec71c0bee4c8b049cd",
                "pip download stlpips-pytorch==0.0.2 --no-deps, and its alex weights as "
                "safetensors (docs/evaluation.md has the lines)",
            ),
        ),
        load=load_stlpips,
    ),
    "lpips": Metric(
        title="LPIPS",
        higher_is_better=False,
        span="0 to about 1",
        protocol="Zhang et al. 2018, AlexNet, heads of version 0.1, RGB in [-1, 1]; pyiqa's lpips",
        weights=(
            Weights(
                "alexnet-owt-7be5be79.pth", "7be5be79", f"{_TORCHVISION}alexnet-owt-7be5be79.pth"
            ),
            Weights(
                "lpips_alex.pth",
                "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
                "pip download lpips==0.1.4 --no-deps, lpips/weights/v0.1/alex.pth in it",
            ),
        ),
        load=load_lpips,
    ),
    "dists": Metric(
        title="DISTS",
        higher_is_better=False,
        span="0 to about 1",
        protocol="Ding et al. 2022, VGG-16, RGB in [0, 1], at the images' own size; pyiqa's dists",
        weights=(
            Weights("vgg16-397923af.pth", "397923af", f"{_TORCHVISION}vgg16-397923af.pth"),
            Weights(
                "dists_weights.pt",
                "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
                "pip download DISTS-pytorch==0.1 --no-deps, DISTS_pytorch/weights.pt in it",
            ),
        ),
        load=load_dists,
    ),
    "niqe": Metric(
        title="NIQE",
        higher_is_better=False,
        span="about 2 to 20",
        protocol="Y of YIQ rounded to levels (MATLAB's rgb2gray), blocks of 96 x 96, two scales, "
        "border 0, parameters of the authors; pyiqa's niqe",
        weights=(
            Weights(
                "niqe_pris_params.npz",
                "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
                "pip download basicsr==1.4.2 --no-deps --no-binary :all:, basicsr/metrics in it",
            ),
        ),
        load=_load_niqe,
        needs_reference=False,
    ),
    "fid": Metric(
        title="FID",
        higher_is_better=False,
        span="0 to infinity",
        digits=2,
        protocol=f"{_FID}; bilinear to 299 x 299 without antialiasing; pytorch-fid's figure",
        weights=(_INCEPTION,),
        load_features=load_fid,
    ),
    "fid-clean": Metric(
        title="FID (clean)",
        higher_is_better=False,
        span="0 to infinity",
        digits=2,
        protocol=f"{_FID}; Pillow's bicubic to 299 x 299, not rounded (Parmar et al. 2022); "
        "clean-fid's figure and pyiqa's fid, which OSEDiff and later papers print",
        weights=(_INCEPTION,),
        load_features=load_clean_fid,
    ),
    "musiq": _of_pyiqa("MUSIQ", "musiq", "Ke et al. 2021, KonIQ-10k"),
    "maniqa": _of_pyiqa("MANIQA", "maniqa-pipal", "Yang et al. 2022, PIPAL"),
    "clipiqa": _of_pyiqa("CLIP-IQA", "clipiqa", "Wang et al. 2023"),
}
_OF_SETS = "is a figure of two sets of images and not of one image: tocsr evaluate has it"
_GET_PYIQA = (
    "needs pyiqa, whose licence is non-commercial, in an environment of its own: python -m venv "
    "IQA && IQA/bin/pip install pyiqa; then --pyiqa IQA/bin/python"
)


def chosen_metrics(
    names: Sequence[str], usual: Sequence[str], has_reference: bool
) -> dict[str, Metric]:
    """The rows of METRICS that are computed, in its order.

    Args:
        names: Those asked for; `all` for every one, nothing for the usual ones. These two leave out
            metrics that need references where there are none.
        usual: The task's metrics.
        has_reference: Whether there are references.

    Raises:
        TocsrError: No such metric, or one that needs the references that are not given.
    """
    if not names or list(names) == ["all"]:
        able = {n for n, metric in METRICS.items() if has_reference or not metric.needs_reference}
        names = [name for name in (METRICS if names else usual) if name in able]
    for name in names:
        if name not in METRICS:
            raise TocsrError(f"no metric is called '{name}'", did_you_mean(name, METRICS))
        if METRICS[name].needs_reference and not has_reference:
            raise TocsrError(f"{name} compares with references, none are given", "name --hr")
    return {name: metric for name, metric in METRICS.items() if name in names}


def load_metrics(
    metrics: Mapping[str, Metric], folder: Path | None, pyiqa: Pyiqa | None = None
) -> tuple[dict[str, Callable[[Subject, Subject], float]], dict[str, str]]:
    """What measures each metric of an image, and of the others why it is absent.

    Args:
        metrics: The rows.
        folder: Where weights are looked up.
        pyiqa: The Python that has pyiqa.

    Raises:
        TocsrError: A file is not the one whose checksum the row has (MODEL).
    """
    ready: dict[str, Callable[[Subject, Subject], float]] = {}
    absent: dict[str, str] = {}
    for name, metric in metrics.items():
        if metric.measure is not None:
            ready[name] = metric.measure
        elif metric.pyiqa:
            if pyiqa is None:
                absent[name] = _GET_PYIQA
            else:
                ready[name] = pyiqa.metric(metric.pyiqa)
        elif metric.load is None:
            absent[name] = _OF_SETS
        elif lacking := _lacking(metric, folder):
            absent[name] = lacking
        else:
            ready[name] = metric.load(_files(metric, folder))
    return ready, absent


def load_features(
    metrics: Mapping[str, Metric], folder: Path | None
) -> tuple[dict[str, Callable[[Subject], Tensor]], dict[str, str]]:
    """What makes the features of an image that each metric of sets compares, else how to get it.

    Args:
        metrics: The rows; those of images are passed over.
        folder: Where weights are looked up.

    Raises:
        TocsrError: A file is not the one whose checksum the row has (MODEL).
    """
    ready: dict[str, Callable[[Subject], Tensor]] = {}
    absent: dict[str, str] = {}
    for name, metric in metrics.items():
        if metric.load_features is None:
            continue
        if lacking := _lacking(metric, folder):
            absent[name] = lacking
        else:
            ready[name] = metric.load_features(_files(metric, folder))
    return ready, absent


def _lacking(metric: Metric, folder: Path | None) -> str:
    """How to get the files that are not there; empty where all are."""
    lacking = [w for w in metric.weights if not (folder and (folder / w.file).is_file())]
    if not lacking:
        return ""
    said = "; ".join(f"{weights.file} from: {weights.source}" for weights in lacking)
    return f"needs in the folder --metric_weights: {said}"


def _files(metric: Metric, folder: Path | None) -> list[Path]:
    """The files of a metric, their checksums compared."""
    assert folder is not None
    paths = [folder / weights.file for weights in metric.weights]
    for path, weights in zip(paths, metric.weights, strict=True):
        _check_bytes(path, weights)
    return paths


def _check_bytes(path: Path, weights: Weights) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(weights.sha256):
        raise TocsrError(
            f"{path} must have the SHA-256 {weights.sha256}, got {found}",
            f"from: {weights.source}",
            ExitCode.MODEL,
        )
