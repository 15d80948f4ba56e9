"""What the deploy verbs are told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from tocsr.config import require, require_at_least
from tocsr.restoration import check_degradation, task_row


@dataclass(frozen=True, kw_only=True)
class UpscaleConfig:
    """Makes photos larger and sharper.

    Args:
        inputs: Photos (PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC), folders that are searched with
            their subfolders, or - for standard input.
        output: (-o) The file to write where there is one photo and this ends like an image, - for
            standard output, else the folder, in which input folders are mirrored; by default
            PHOTO_xN.png beside each, N the factor.
        model: (-m) Model folder that tocsr export wrote; by default the model in the package.
        upscale: (-s) Factor from 1 to 8, fractions too; 0 takes the model's. The network runs as
            often as needed, a Lanczos filter does the rest.
        width: (-w) Width of the result in pixels instead of a factor; the height follows. With
            height: the box that the result fits inside.
        height: Height of the result in pixels instead of a factor; the width follows.
        fidelity: From 0, as trained, to 1: how much of the noise that the network starts from is
            left out. More invents less: PSNR rises a little (0.3 dB measured), detail that only
            the noise makes goes, and ST-LPIPS gets worse. A model that predicts the noise
            refuses it.
        color_fix: Brings the colours back to the photo's, over the whole image: wavelet takes
            everything coarse from the photo, adain each channel's mean and spread.
        tile: (-t) Pixels of a photo that are computed at once along a side; less takes less
            memory; 0 takes what half of the free memory holds, at most 512.
        seed: Seed of the noise that the network starts from.
        format: (-f) Format of the results; auto goes by the output file, else by each photo.
        quality: (-c) Quality of JPEG, WebP, AVIF and HEIC, 1 to 100.
        depth: Bits per channel of the results; auto keeps a photo's 16 where the result is PNG or
            TIFF. 16 bits need the extra io.
        strip_metadata: Leaves out the photo's EXIF and resolution and how the result was made. A
            colour profile stays, since without it the colours would be others.
        overwrite: Makes results anew that are already there, instead of skipping them.
        backend: What computes; auto takes onnx on the CPU, the fastest measured, else torch.
        device: cpu, or one that PyTorch computes on; auto takes the GPU that it finds.
        num_threads: CPU threads; 0 takes all cores.
    """

    verb: ClassVar[str] = "upscale"

    inputs: list[Path] = field(metadata={"positional": True})
    output: Path | None = field(default=None, metadata={"short": "-o"})
    model: Path | None = field(default=None, metadata={"short": "-m"})
    upscale: float = field(default=0.0, metadata={"short": "-s"})
    width: int = field(default=0, metadata={"short": "-w"})
    height: int = 0
    fidelity: float = 0.0
    color_fix: Literal["none", "wavelet", "adain"] = "none"
    tile: int = field(default=0, metadata={"short": "-t"})
    seed: int = 0
    format: Literal["auto", "png", "jpg", "webp", "tif", "bmp", "avif", "heic"] = field(
        default="auto", metadata={"short": "-f"}
    )
    quality: int = field(default=95, metadata={"short": "-c"})
    depth: Literal["auto", "8", "16"] = "auto"
    strip_metadata: bool = False
    overwrite: bool = False
    backend: Literal["auto", "onnx", "openvino", "openvino-int8", "torch"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"
    num_threads: int = 0

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "upscale needs at least one photo or folder of photos")
        require(
            self.upscale == 0 or 1 <= self.upscale <= 8,
            f"upscale must be a factor from 1 to 8, or 0 for the model's, got {self.upscale:g}",
        )
        require(
            not (self.upscale and (self.width or self.height)),
            "upscale cannot stand with width or height, which say the size too",
        )
        require(0 <= self.fidelity <= 1, f"fidelity must be from 0 to 1, got {self.fidelity:g}")
        require(1 <= self.quality <= 100, f"quality must be in 1..100, got {self.quality}")
        require_at_least(0, self, "width", "height", "tile", "seed", "num_threads")
        require(
            self.depth != "16" or self.format in ("auto", "png", "tif"),
            f"depth 16 needs format png or tif, got {self.format}",
        )


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Counts parameters and GMACs of encoder, U-Net, decoder and whole, and times a model.

    Args:
        preset: Preset whose base and expanded networks are counted, without weights, and every
            block of the library that its search chooses from.
        model: Folder of a finished model to count instead, and to time in every engine that is
            installed: latency and peak memory of each part and of the whole, on the CPU.
        pixels: Side of the result that GMACs and latencies are for.
        num_runs: Timed runs of a model, after 3 that warm up; 0 leaves the timing out.
        num_threads: CPU threads; 0 takes all cores.
        budget: Parameters of the U-Net, near which architectures of the preset's library are
            looked for; by default what the preset's select says.
        draw: PNG or WebP file to draw the finished model's architecture to, or else the one nearest
            the budget: the U of stages, with what each one's block costs beside the teacher's.
    """

    verb: ClassVar[str] = "profile"

    preset: str = "tiny"
    model: Path | None = None
    pixels: int = 512
    num_runs: int = 20
    num_threads: int = 0
    budget: int | None = None
    draw: Path | None = None

    def __post_init__(self) -> None:
        require_at_least(0, self, "num_runs", "num_threads")
        require(
            self.budget is None or self.budget > 0, f"budget must be above 0, got {self.budget}"
        )
        require(
            self.draw is None or self.draw.suffix in (".png", ".webp"),
            f"draw must name a .png or .webp file, got {self.draw}",
        )
        require(
            self.pixels > 0 and self.pixels % 64 == 0,
            f"pixels must be a positive multiple of 64, got {self.pixels}",
        )


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Writes a finished model as a folder that upscales without PyTorch.

    Args:
        model: Folder of the finished model, as distill wrote it.
        output: Folder to write.
        openvino: Writes the graph in OpenVINO's own form too, upscaler.xml and upscaler.bin.
        int8: Folder of photos, such as will be upscaled, to make upscaler_int8.xml with: the graph
            in 8 bits, kept only where it keeps 40 dB to the float result on photos held out.
    """

    verb: ClassVar[str] = "export"

    model: Path = Path("runs/tiny/distill/model")
    output: Path
    openvino: bool = False
    int8: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DegradeConfig:
    """Makes pairs for training and evaluation: photos, and low-resolution images of them.

    Args:
        inputs: Photos, or folders that are searched with their subfolders; the formats of upscale.
        output: (-o) Folder to write: lr/NAME.png, hr/NAME.png, input folders mirrored in both,
            preview.png with some of the pairs, and pairs.json, which says how they were made.
        degradation: How: bicubic, or of second order: hard (Real-ESRGAN's), mild (StableSR's),
            photos (half mild, half bicubic), or as a YAML file says.
        task: Gives the factor where none is given: sr-x4 or sr-x2.
        factor: Between the sides of a photo and its low-resolution image. A photo whose sides are
            no multiples loses its last rows and columns. 0 takes the task's.
        seed: With a photo's name it decides what is drawn for it, whatever other photos there are.
        overwrite: Makes pairs anew that are already there, instead of skipping them.
        num_threads: CPU threads; 0 takes all cores.
    """

    verb: ClassVar[str] = "degrade"

    inputs: list[Path] = field(metadata={"positional": True})
    output: Path = field(metadata={"short": "-o"})
    degradation: str = "bicubic"
    task: str = "sr-x4"
    factor: int = 0
    seed: int = 0
    overwrite: bool = False
    num_threads: int = 0

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "degrade needs at least one photo or folder of photos")
        check_degradation(self.degradation, "degradation")
        object.__setattr__(self, "factor", self.factor or task_row(self.task).upscale)
        require_at_least(1, self, "factor")
        require(
            not self.output.is_file(), f"output must be a folder to write, {self.output} is a file"
        )
        require_at_least(0, self, "seed", "num_threads")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measures results against references, several systems side by side.

    Args:
        hr: Folder of the references. Without one, only metrics that need none are computed.
        sr: Folders of results, one for each system; images belong together by name.
        model: (-m) Systems that make their results now: model folders of export or of distill, or
            bicubic or lanczos.
        lr: Folder of the low-resolution images that models start from.
        degrade: Makes the low-resolution images from the references instead: bicubic, hard, mild,
            photos or a YAML file, as tocsr degrade does.
        seed: Of what is degraded and of the noise that models start from.
        task: Gives factor and metrics where none are given: sr-x4 or sr-x2.
        factor: Between the sides of a reference and of its low-resolution image; 0 takes the
            task's.
        metrics: Which metrics; by default the task's, `all` for every one there is.
        metric_weights: Folder of the files that some metrics need.
        pyiqa: Python of an environment with pyiqa, for MUSIQ, MANIQA and CLIP-IQA.
        border: Pixels left out on each side of every image.
        allow_missing: Evaluates the images that all folders have, where some lack some.
        test_set: Checks the images against a set of the paper: realsr-100, drealsr-93, div2k-val.
        test_sets: Folder of StableSR's test sets, where the test set is taken from.
        save: Folder to write the results of models to, in a folder for each.
        output: (-o) JSON file to write: protocol, checksums, values of each image, intervals.
        report: HTML file to write: the figures, plots, and pictures of the worst and best images.
        sheet: PNG file to write: crops of the worst, the median and the best image.
        shown_by: Metric by whose values of the first system images are the worst and best; by
            default the first that is computed.
        num_shown: How many of the worst and of the best images the report has pictures of.
        paper_table: Sets the figures beside the paper's of a test set: realsr-100, drealsr-93,
            div2k-val; counts the models' parameters and GMACs.
        num_threads: CPU threads; 0 takes all cores.
    """

    verb: ClassVar[str] = "evaluate"

    hr: Path | None = None
    sr: tuple[Path, ...] = ()
    model: tuple[Path, ...] = field(default=(), metadata={"short": "-m"})
    lr: Path | None = None
    degrade: str = ""
    seed: int = 0
    task: str = "sr-x4"
    factor: int = 0
    metrics: tuple[str, ...] = ()
    metric_weights: Path | None = None
    pyiqa: Path | None = None
    border: int = 0
    allow_missing: bool = False
    test_set: str = ""
    test_sets: Path | None = None
    save: Path | None = None
    output: Path = field(default=Path("evaluation.json"), metadata={"short": "-o"})
    report: Path | None = None
    sheet: Path | None = None
    shown_by: str = ""
    num_shown: int = 4
    paper_table: str = ""
    num_threads: int = 0

    def __post_init__(self) -> None:
        self._check_sources()
        for name, file, suffix in (("report", self.report, ".html"), ("sheet", self.sheet, ".png")):
            require(
                file is None or file.suffix == suffix,
                f"{name} must name a {suffix} file, got {file}",
            )
        require_at_least(1, self, "num_shown")
        require(
            not self.shown_by or self.is_shown,
            "shown_by chooses the images of a --report or --sheet, neither is asked for",
        )
        if self.degrade:
            check_degradation(self.degrade, "degrade")
        object.__setattr__(self, "factor", self.factor or task_row(self.task).upscale)
        require_at_least(1, self, "factor")
        require_at_least(0, self, "seed", "border", "num_threads")

    @property
    def is_shown(self) -> bool:
        """Whether there are pictures to make."""
        return self.report is not None or self.sheet is not None

    def _check_sources(self) -> None:
        """Raises a usage error unless there are systems, and what they start from."""
        given = self.test_sets is not None
        require(len(self.sr) + len(self.model) > 0, "evaluate needs results, --sr, or a --model")
        require(
            not (given and (self.hr or self.lr or not self.test_set)),
            "test_sets finds the images of a test_set, it cannot stand with hr or lr",
        )
        require(
            not self.test_set or given or self.hr is not None,
            "a test_set needs its images: --hr and --lr, or --test_sets",
        )
        if not given:
            sources = (self.lr is not None) + bool(self.degrade)
            require(
                not self.model or (sources == 1 and self.hr is not None),
                "a model needs --hr and one of --lr and --degrade",
            )
            require(
                not sources or bool(self.model), "lr and degrade are for a --model to start from"
            )
