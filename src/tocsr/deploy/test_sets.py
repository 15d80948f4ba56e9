"""The test sets of the paper by name: what they must hold, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tocsr.config import require
from tocsr.errors import TocsrError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """One test set: centre crops of 128 x 128 and their references of 512 x 512.

    Args:
        about: What the images are.
        hr: Folder of the references in StableSR's test sets.
        lr: Folder of the low-resolution images there.
        num_images: How many there are.
        hr_sha256: Of the references' pixels, as an evaluation's result has it; empty where the set
            was not at hand.
        lr_sha256: The same of the low-resolution images.
    """

    about: str
    hr: str
    lr: str
    num_images: int
    hr_sha256: str = ""
    lr_sha256: str = ""


SOURCE = "huggingface.co/datasets/Iceclear/StableSR-TestSets"
TEST_SETS: dict[str, NamedSet] = {
    "realsr-100": NamedSet(
        about="RealSR test x4 (Cai et al. 2019), Canon and Nikon",
        hr="RealSRVal_crop128/test_HR",
        lr="RealSRVal_crop128/test_LR",
        num_images=100,
        hr_sha256="4484f9c236109754e7584a15cfe6d839f0e3b32573eb6934db9ea40500fd10f3",
        lr_sha256="78a4a8202115f9577bfaba0521a1086d501c8ee1dc33ffd8ca43a1ba1356a76c",
    ),
    "drealsr-93": NamedSet(
        about="DRealSR test x4 (Wei et al. 2020)",
        hr="DrealSRVal_crop128/test_HR",
        lr="DrealSRVal_crop128/test_LR",
        num_images=93,
    ),
    "div2k-val": NamedSet(
        about="crops of DIV2K validation, degraded by StableSR's mild Real-ESRGAN pipeline",
        hr="DIV2K_V2_val/gt",
        lr="DIV2K_V2_val/lq",
        num_images=3000,
    ),
}
SIDE, LR_SIDE = 512, 128


def named_set(name: str) -> NamedSet:
    """The row of a name.

    Raises:
        TocsrError: No such test set.
    """
    if name not in TEST_SETS:
        raise TocsrError(f"no test set is called '{name}'", did_you_mean(name, TEST_SETS))
    return TEST_SETS[name]


def set_folders(name: str, folder: Path) -> tuple[Path, Path]:
    """References and low-resolution images of a set below the folder of all sets.

    Raises:
        TocsrError: The set is not there.
    """
    row = named_set(name)
    folders = folder / row.hr, folder / row.lr
    for path in folders:
        require(
            path.is_dir(),
            f"the test set {name} is absent: {path} does not exist",
            f"get {SOURCE}, or name its folders with --hr and --lr",
        )
    return folders


def check_count(name: str, num_images: int) -> None:
    """Raises a usage error unless there are as many images as the set has."""
    row = named_set(name)
    require(
        num_images == row.num_images,
        f"the test set {name} has {row.num_images} images, got {num_images}",
        f"get it whole from {SOURCE}, or leave --test_set out",
    )


def check_hashes(name: str, hr_sha256: str, lr_sha256: str | None) -> bool:
    """Whether the images were compared with known ones.

    Args:
        name: Of the set.
        hr_sha256: Of the references' pixels.
        lr_sha256: Of the low-resolution images'; None where none were read.

    Raises:
        TocsrError: They are not the known ones.
    """
    row = named_set(name)
    for kind, known, found in (
        ("references", row.hr_sha256, hr_sha256),
        ("low-resolution images", row.lr_sha256, lr_sha256),
    ):
        require(
            not known or found in (known, None),
            f"the {kind} of the test set {name} must have the SHA-256 {known}, got {found}",
            f"get them from {SOURCE}, or leave --test_set out",
        )
    return bool(row.hr_sha256)
