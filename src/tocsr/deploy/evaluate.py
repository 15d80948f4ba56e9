"""Evaluates systems: every result against its reference, by metrics whose protocol is written down.

One image is held at a time, with what each metric derives of it, so memory does not grow with the
number of images.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tocsr.config import require
from tocsr.data.degrade import degrade
from tocsr.data.images import to_tensor, to_uint8
from tocsr.deploy.contact_sheet import contact_sheet
from tocsr.deploy.degrade import cropped, index_of
from tocsr.deploy.evaluation import checked, figures, record
from tocsr.deploy.image_files import Picture, read_image, write_image
from tocsr.deploy.metrics.fid import SetFigures
from tocsr.deploy.metrics.pyiqa import Pyiqa
from tocsr.deploy.metrics.subject import Subject
from tocsr.deploy.metrics.table import chosen_metrics, load_features, load_metrics
from tocsr.deploy.pairs import common_names, named_images
from tocsr.deploy.paper_table import paper_table, published_table
from tocsr.deploy.pictures import choose, make_pictures
from tocsr.deploy.report import report_page
from tocsr.deploy.systems import labels, make_system
from tocsr.deploy.test_sets import check_count, check_hashes, set_folders
from tocsr.devices import pick_device
from tocsr.files import whole_file, write_json, write_text
from tocsr.restoration import task_row
from tocsr.runs import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tocsr.deploy.configs import EvaluateConfig
    from tocsr.deploy.metrics.metric import Metric
    from tocsr.deploy.pictures import Pictures
    from tocsr.deploy.systems import System
    from tocsr.runs import Report


@dataclass(frozen=True)
class Images:
    """The images of an evaluation.

    Args:
        names: What they are called, in order.
        hr: References by name; None where there are none.
        lr: Low-resolution images by name; None where they are made, or not needed.
        systems: The path of each system by label.
        sr: Results that lie in files, by label of the system and by name.
        missing: Names that a folder lacks, by what it is called.
    """

    names: list[str]
    hr: dict[str, Path] | None
    lr: dict[str, Path] | None
    systems: dict[str, Path]
    sr: dict[str, dict[str, Path]]
    missing: dict[str, list[str]]


@dataclass
class Measured:
    """What is known of the images so far.

    Args:
        values: Of each system and metric of images, one for each image.
        sets: What metrics of sets have taken in.
        hashes: Of the pixels of `hr`, `lr` and each system's results, in order.
        seconds: That each system and the metrics took.
    """

    values: dict[str, dict[str, list[float]]]
    sets: SetFigures
    hashes: dict[str, Any] = field(default_factory=lambda: defaultdict(hashlib.sha256))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def take(self, of: str, name: str, pixels: NDArray[np.uint8]) -> None:
        """Adds an image to a hash, which does not depend on the format of the file."""
        digest = self.hashes[of]
        digest.update(f"{name} {pixels.shape}\n".encode())
        digest.update(np.ascontiguousarray(pixels))


def run(config: EvaluateConfig, report: Report = silent) -> dict[str, Any]:
    """Measures every image of every system and writes the result file.

    Returns:
        What is printed: the means of each system with their intervals, the comparisons of systems,
        absent metrics and how to get them, images that are missing somewhere.

    Raises:
        TocsrError: Images are missing, of two sizes or unreadable, or not those of the test set
            (USAGE); a model or a metric's file is broken (MODEL).
    """
    started = time.monotonic()
    pick_device("cpu", config.num_threads)
    if config.test_sets is not None:
        hr, lr = set_folders(config.test_set, config.test_sets)
        config = replace(config, hr=hr, lr=lr if config.model else None, test_sets=None)
    with Pyiqa(config.pyiqa) if config.pyiqa else nullcontext() as pyiqa:
        result, pictures = evaluated(config, pyiqa, report)
    result["seconds"] = round(time.monotonic() - started, 3)
    write_json(config.output, result)
    if config.report is not None and pictures is not None:
        write_text(config.report, report_page(result, pictures))
    if config.sheet is not None and pictures is not None:
        with whole_file(config.sheet) as part:
            contact_sheet(result, pictures).save(part, "PNG")
    written = {"report": config.report, "sheet": config.sheet}
    return figures(result, config.output) | {k: str(v) for k, v in written.items() if v}


def evaluated(
    config: EvaluateConfig, pyiqa: Pyiqa | None, report: Report
) -> tuple[dict[str, Any], Pictures | None]:
    """The result file of a configuration whose folders are named, but for its seconds.

    With it the pictures of the worst and best images, where they are to be shown.
    """
    started = time.monotonic()
    metrics = metrics_of(config)
    of_images = {name: metric for name, metric in metrics.items() if not metric.load_features}
    ready, absent = load_metrics(of_images, config.metric_weights, pyiqa)
    features, lacking = load_features(metrics, config.metric_weights)
    check_shown(config, ready)
    images = find_images(config)
    if config.test_set:
        check_count(config.test_set, len(images.names))
    systems = {
        label: make_system(path, images.sr.get(label), config)
        for label, path in images.systems.items()
    }
    values: dict[str, dict[str, list[float]]] = {
        label: {name: [] for name in ready} for label in systems
    }
    measured = Measured(values, SetFigures(features))
    for number, name in enumerate(images.names):
        measure_image(name, images, systems, ready, measured, config)
        rate = (number + 1) / (time.monotonic() - started)
        report("evaluating", number + 1, len(images.names), {"images/s": rate})
    hashes = {of: digest.hexdigest() for of, digest in measured.hashes.items()}
    known = bool(config.test_set) and check_hashes(
        config.test_set, hashes["reference images"], hashes.get("low-resolution images")
    )
    result = record(config, images, measured, hashes, metrics, absent | lacking)
    result["protocol"] |= {"test_set_hash_known": known, "test_set_checked": checked(result, known)}
    if pyiqa is not None:
        result["versions"]["pyiqa"] = pyiqa.version
    if config.paper_table:
        result["paper_table"] = paper_table(config.paper_table, result, networks(images))
    if not config.is_shown:
        return result, None
    chosen = choose(result, config.shown_by, config.num_shown)
    return result, make_pictures(
        chosen, lambda name: originals(name, images, config), systems, config.factor
    )


def metrics_of(config: EvaluateConfig) -> dict[str, Metric]:
    """The metrics asked for, else the task's and those of the paper's table."""
    usual = task_row(config.task).metrics
    if config.paper_table:
        usual = [*usual, *published_table(config.paper_table).metrics.values()]
    return chosen_metrics(config.metrics, usual, config.hr is not None)


def check_shown(config: EvaluateConfig, ready: Mapping[str, object]) -> None:
    """Raises a usage error unless there is a metric by which images are the worst and best."""
    by = config.shown_by
    require(
        not config.is_shown or (by in ready if by else len(ready) > 0),
        f"a report or sheet shows the worst and best by a metric that is computed, got "
        f"{by or 'none'} of {', '.join(ready) or 'none'}",
    )


def networks(images: Images) -> dict[str, Path]:
    """The systems that are networks, whose parameters can be counted, by label."""
    return {
        label: path
        for label, path in images.systems.items()
        if label not in images.sr and (path / "unet").is_dir()
    }


def find_images(config: EvaluateConfig) -> Images:
    """The images of all folders, paired by name.

    Raises:
        TocsrError: A folder has no images, two of one name, or not those that others have.
    """
    systems = labels([*config.sr, *config.model])
    sr = {label: named_images(path) for label, path in systems.items() if path in config.sr}
    hr = named_images(config.hr) if config.hr else None
    lr = named_images(config.lr) if config.lr else None
    folders = {"--hr": hr, "--lr": lr, **sr}
    names, missing = common_names(
        {label: images for label, images in folders.items() if images is not None},
        config.allow_missing,
    )
    return Images(names, hr, lr, systems, sr, missing)


def measure_image(
    name: str,
    images: Images,
    systems: dict[str, System],
    ready: dict[str, Callable[[Subject, Subject], float]],
    measured: Measured,
    config: EvaluateConfig,
) -> None:
    """Adds the values of one image, for every system and metric."""
    hr, lr = originals(name, images, config)
    reference = None
    if hr is not None:
        measured.take("reference images", name, hr)
        reference = Subject(hr, config.border)
        measured.sets.take_reference_(reference)
    if lr is not None:
        measured.take("low-resolution images", name, lr)
    for label, system in systems.items():
        began = time.monotonic()
        sr = system(name, lr)
        made = time.monotonic()
        require(
            hr is None or sr.shape == hr.shape,
            f"results and references must have one size, {name} of {label} is {_size(sr)} and "
            f"its reference {_size(hr)}",
        )
        measured.take(label, name, sr)
        if config.save is not None and label not in images.sr:
            write_image(config.save / label / f"{name}.png", Picture(sr), "png")
        image = Subject(sr, config.border)
        for metric, measure in ready.items():
            # a metric without reference takes the image alone
            measured.values[label][metric].append(measure(image, reference or image))
        measured.sets.take_(label, image)
        measured.seconds[label] += made - began
        measured.seconds["metrics"] += time.monotonic() - made


def originals(
    name: str, images: Images, config: EvaluateConfig
) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
    """The reference and the low-resolution image, each where there is one."""
    if images.hr is None or config.hr is None:
        return None, None
    file = images.hr[name]
    picture = read_image(file)
    if images.lr is not None:
        return picture.rgb, read_image(images.lr[name]).rgb
    if not config.degrade:
        return picture.rgb, None
    hr = cropped(picture, config.factor, file)
    index = index_of(file.relative_to(config.hr).as_posix())  # the one of tocsr degrade
    lr = degrade(to_tensor(hr)[None], config.factor, config.degrade, config.seed, [index])
    return hr, to_uint8(lr[0])


def _size(image: NDArray[np.uint8] | None) -> str:
    return "absent" if image is None else f"{image.shape[1]} x {image.shape[0]}"
