"""Which photo goes where: what upscale reads, and what it writes, before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tocsr.config import require
from tocsr.deploy.deep_files import require_deep
from tocsr.deploy.formats import FORMAT_OF_SUFFIX, Format, require_writable
from tocsr.deploy.image_files import list_images

if TYPE_CHECKING:
    from tocsr.deploy.configs import UpscaleConfig

STDIO = Path("-")  # standard input among the inputs, standard output as the output


@dataclass(frozen=True)
class Job:
    """One photo.

    Args:
        source: The file to read, or `STDIO`.
        target: The file to write, or `STDIO`.
        file_format: What to write.
    """

    source: Path
    target: Path
    file_format: Format


def plan(config: UpscaleConfig, upscale: int) -> list[Job]:
    """What to read and where to write it, in order, each photo once.

    Args:
        config: What was asked for.
        upscale: The model's factor, which names results where no other is asked for.

    Raises:
        TocsrError: No photo found; the output does not fit the inputs; a result would overwrite a
            photo or another result; no package writes the format.
    """
    tag = _size_tag(config, upscale)
    sources = _sources(config, tag)
    where = ", ".join(str(path) for path in config.inputs)
    require(len(sources) > 0, f"inputs must hold an image file, none found in {where}")
    output_file = _output_file(config)
    jobs = []
    for source, relative in sources.items():
        target = output_file or _target(source, relative, config, tag)
        own = FORMAT_OF_SUFFIX.get(target.suffix.lower(), "png")
        jobs.append(Job(source, target, own if config.format == "auto" else config.format))
    _check_targets(jobs)
    for file_format in {job.file_format for job in jobs}:
        require_writable(file_format)
    if config.depth == "16":
        require_deep("a result")
    return jobs


def _size_tag(config: UpscaleConfig, upscale: int) -> str:
    """How the name of a result beside its photo ends, from the size that was asked for."""
    if config.width and config.height:
        return f"_{config.width}x{config.height}"
    if config.width or config.height:
        return f"_{config.width}w" if config.width else f"_{config.height}h"
    return f"_x{config.upscale or upscale:g}"


def _sources(config: UpscaleConfig, tag: str) -> dict[Path, Path]:
    """Each photo and its path below the folder it was found in, without earlier results."""
    found: dict[Path, Path] = {}
    seen: set[Path] = set()
    for path in config.inputs:
        listed = list_images(path)
        if path.is_dir():
            listed = _without_results(path, listed, config, tag)
        for file in listed:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                found[file] = file.relative_to(path) if path.is_dir() else Path(file.name)
    return found


def _without_results(
    folder: Path, files: list[Path], config: UpscaleConfig, tag: str
) -> list[Path]:
    """The files found in a folder that an earlier run of this command did not make."""
    if config.output is None:
        results = {file.with_name(f"{file.stem}{tag}") for file in files}
        return [file for file in files if file.with_suffix("") not in results]
    output = config.output.resolve()
    if folder.resolve() not in output.parents:
        return files
    return [file for file in files if output not in file.resolve().parents]


def _output_file(config: UpscaleConfig) -> Path | None:
    """The output where it is a file or standard output and not a folder.

    Raises:
        TocsrError: It looks like a file and must be a folder, or contradicts the format.
    """
    output = config.output
    if output is None and config.inputs == [STDIO]:
        output = STDIO
    if output is None or (output != STDIO and output.is_dir()):
        return None
    file_format = FORMAT_OF_SUFFIX.get(output.suffix.lower())
    if file_format is None and output != STDIO:
        require(not output.exists(), f"output must be a folder or an image file, got {output}")
        return None
    require(
        len(config.inputs) == 1 and not config.inputs[0].is_dir(),
        f"output must be a folder for several photos, got the file name {output}",
    )
    require(
        config.format in ("auto", file_format) or output == STDIO,
        f"format {config.format} and output {output} contradict each other",
        "leave --format out",
    )
    return output


def _target(source: Path, relative: Path, config: UpscaleConfig, tag: str) -> Path:
    if source == STDIO:
        relative = source = Path("stdin")
    own_format = FORMAT_OF_SUFFIX.get(source.suffix.lower())
    if config.output is None:
        suffix = "png" if config.format == "auto" else config.format
        return source.with_name(f"{source.stem}{tag}.{suffix}")
    file_format = own_format or "png" if config.format == "auto" else config.format
    kept = relative if file_format == own_format else relative.with_suffix(f".{file_format}")
    return config.output / kept


def _check_targets(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs if job.source != STDIO}
    source_of: dict[Path, Path] = {}
    for job in jobs:
        if job.target == STDIO:
            continue
        target = job.target.resolve()
        require(
            target not in sources,
            f"a result must not overwrite a photo, {job.source} would be written to {job.target}",
            "name another --output",
        )
        require(
            target not in source_of,
            f"each photo needs a result of its own, {source_of.get(target)} and {job.source} "
            f"would both be {job.target}",
            "name an --output folder for each",
        )
        source_of[target] = job.source
