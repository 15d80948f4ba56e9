"""The upscaler: a finished model behind one call on images; needs ONNX Runtime, no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import tocsr
from tocsr.config import require
from tocsr.deploy.onnx_session import (
    ORT_ERRORS,
    broken_model,
    open_session,
    says_out_of_memory,
)
from tocsr.deploy.tiling import (
    Level,
    Tile,
    assemble,
    pad_to_multiple,
    position_noise,
    tiles,
)
from tocsr.errors import ExitCode, TocsrError, one_line
from tocsr.files import read_json
from tocsr.models.fidelity import check_fidelity
from tocsr.runs import silent

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    from tocsr.runs import Report

SCHEMA = 1
SHIPPED_MODEL = Path(tocsr.__file__).parent / "assets" / "model"
# docs/results/upscale.md: with the model in the package smaller tiles take longer, since a halo
# of 32 px is computed around each, and larger ones only more memory.
AUTO_TILE = 256


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What `upscaler.json` says of the graph beside it.

    Args:
        upscale: n, the factor between the sides of the result and of the image.
        latent_channels: Channels of the noise.
        latent_stride: Pixels of the result per noise value along a side.
        pixel_multiple: What the sides of the graph's image must be multiples of.
        halo: Pixels of the result to compute around a tile.
        prediction: What the network's output is, `clean` or `noise`; empty where it is not said.
    """

    upscale: int
    latent_channels: int
    latent_stride: int
    pixel_multiple: int
    halo: int
    prediction: str = ""

    @classmethod
    def read(cls, path: Path) -> ModelFacts:
        """Reads `upscaler.json`; what other programs say in it is left alone.

        Raises:
            TocsrError: Missing, of another schema, or with values that do not fit together.
        """
        if not path.is_file():
            raise broken_model(f"a model folder must hold {path.name}, {path} does not exist")
        values = read_json(path)
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise broken_model(f"{path} must have schema {SCHEMA}, got {schema}", "update tocsr")
        facts: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        prediction = facts.pop("prediction") or ""
        for name, value in facts.items():
            if type(value) is not int or value < (name != "halo"):
                raise broken_model(f"{path} must give {name} as a positive integer, got {value}")
        for name in ("upscale", "latent_stride"):
            if facts["pixel_multiple"] % facts[name]:
                raise broken_model(
                    f"{path}: pixel_multiple must be a multiple of {name}, got {facts}"
                )
        return cls(prediction=str(prediction), **facts)


class Upscaler:
    """Makes a photo n times larger on each side, in one step of the network per tile.

    `upscaler(image)` maps an image to one n times as high and as wide, n = `upscaler.upscale`.

    Input: uint8 (H, W, 3), RGB in 0..255, or uint16 in 0..65535, sRGB as files hold it; any H and W
    from 1 px on, padded inside by reflection and cropped again. Output: the same type,
    (n H, n W, 3), RGB.

    The result is a function of the image, the seed and the tile size: bitwise the same on every
    call on one machine with one version of ONNX Runtime, and within a level elsewhere. The noise
    belongs to a place, so the tile size changes the result only as far as the network sees beyond
    half of the model's halo; an image that fits one tile is computed whole. Memory grows with the
    tile and, by 12 bytes per pixel, with one row of tiles of the result; beside that only the
    image and the result are held. Calls from several threads are safe.
    """

    def __init__(self, facts: ModelFacts, session: onnxruntime.InferenceSession) -> None:
        self.facts = facts
        self._session = session

    @property
    def upscale(self) -> int:
        """The factor n between the sides of the result and of the image."""
        return self.facts.upscale

    @classmethod
    def from_pretrained(cls, folder: Path | None = None, num_threads: int = 0) -> Upscaler:
        """Loads `upscaler.json` and `upscaler.onnx` with the weight files that it names.

        Args:
            folder: A model folder; None takes the model in the package.
            num_threads: CPU threads; 0 takes all cores.

        Raises:
            TocsrError: A file is missing or broken (code MODEL).
        """
        folder = SHIPPED_MODEL if folder is None else Path(folder)
        if not folder.is_dir():
            raise broken_model(f"the model must be a folder, {folder} is none")
        facts = ModelFacts.read(folder / "upscaler.json")
        return cls(facts, open_session(folder / "upscaler.onnx", num_threads))

    def __call__(
        self,
        image: NDArray[Level],
        seed: int = 0,
        tile: int = 0,
        report: Report = silent,
        label: str = "",
        fidelity: float = 0.0,
    ) -> NDArray[Level]:
        """Upscales one image; the class says what goes in and what comes out.

        Args:
            image: uint8 or uint16 (H, W, 3), RGB.
            seed: Of the noise the network starts from; taken modulo 2^64.
            tile: Most pixels of `image` along a side of a tile's core, which the halo adds to;
                rounded up to what the network's strides allow. 0 takes 256, about 0.6 GB.
            report: Called with `label`, tiles done and tiles in all.
            label: What `report` calls this image.
            fidelity: Not in the paper: 0 is as trained; up to 1 the start noise is scaled by
                `1 - fidelity`, and with it goes detail that only the noise makes.

        Returns:
            (n H, n W, 3), RGB, of the image's type.

        Raises:
            TocsrError: Not such an image; a fidelity that the model cannot be turned to; memory
                ran out (RESOURCES); the graph failed (MODEL).
        """
        _check_image(image)
        self.check_fidelity(fidelity)
        if tile < 0:
            raise TocsrError(f"tile must be at least 0 pixels, got {tile}")
        height, width, _ = image.shape
        multiple = self.facts.pixel_multiple // self.upscale
        halo = -(-self.facts.halo // self.upscale)
        try:
            parts = tiles(height, width, tile or AUTO_TILE, halo, multiple)
            padded = pad_to_multiple(image, multiple)
            num_done = 0

            def compute(part: Tile) -> NDArray[np.float32]:
                nonlocal num_done
                result = self._run(padded, part, seed, fidelity)
                num_done += 1
                report(label, num_done, len(parts), {})
                return result

            return assemble(parts, compute, height, width, self.upscale, image.dtype.type)
        except MemoryError as error:
            raise _out_of_memory(width, height, tile or AUTO_TILE) from error
        except ORT_ERRORS as error:
            if says_out_of_memory(error):
                raise _out_of_memory(width, height, tile or AUTO_TILE) from error
            raise broken_model(f"the model's graph failed: {one_line(error)}") from error

    def check_fidelity(self, fidelity: float) -> None:
        """Raises a usage error unless the model can be turned to this fidelity.

        Unlike the network itself, a model folder may not say what its network predicts.
        """
        check_fidelity(fidelity, self.facts.prediction)
        require(
            fidelity == 0 or self.facts.prediction != "",
            f"fidelity must be 0 where upscaler.json says no prediction, got {fidelity}",
            "export the model anew",
        )

    def _run(
        self, padded: NDArray[Level], part: Tile, seed: int, fidelity: float
    ) -> NDArray[np.float32]:
        """The graph's result for one tile, (3, n rows, n cols) in [-1, 1]."""
        facts = self.facts
        top, left, height, width = (
            pixels * facts.upscale // facts.latent_stride
            for pixels in (part.rows.start, part.cols.start, part.rows.size, part.cols.size)
        )
        noise = position_noise(seed, top, left, height, width, facts.latent_channels)
        noise *= np.float32(1 - fidelity)
        inputs = {"image": upsampled(padded, part, facts.upscale)[None], "noise": noise[None]}
        (result,) = self._session.run(["upscaled"], inputs)
        return result[0]


def upsampled(padded: NDArray[Level], part: Tile, upscale: int) -> NDArray[np.float32]:
    """The tile of the bicubic (a = -0.5) upsampling of the whole padded image, unclamped.

    Args:
        padded: uint8 or uint16 (H, W, 3).
        part: A tile of it.
        upscale: n.

    Returns:
        float32 (3, n rows, n cols), [-1, 1] but for the overshoot at edges.
    """
    reach = 2  # pixels to either side that bicubic interpolation looks at
    top, left = max(0, part.rows.start - reach), max(0, part.cols.start - reach)
    levels = padded[top : part.rows.stop + reach, left : part.cols.stop + reach]
    region = levels.astype(np.float32) / np.float32(np.iinfo(padded.dtype).max / 2) - np.float32(1)
    box = (
        part.cols.start - left,
        part.rows.start - top,
        part.cols.stop - left,
        part.rows.stop - top,
    )
    size = (part.cols.size * upscale, part.rows.size * upscale)
    return np.stack(
        [
            np.asarray(
                Image.fromarray(region[:, :, channel]).resize(size, Image.Resampling.BICUBIC, box)
            )
            for channel in range(3)
        ]
    )


def _check_image(image: NDArray[Level]) -> None:
    if (
        image.dtype not in (np.uint8, np.uint16)
        or image.ndim != 3
        or image.shape[2] != 3
        or 0 in image.shape
    ):
        raise TocsrError(
            f"an image must be uint8 or uint16 (H, W, 3) of at least one pixel, "
            f"got {image.dtype} {image.shape}"
        )
    if max(image.shape) > 2**20:
        raise TocsrError(f"an image must have sides of at most 2^20 pixels, got {image.shape}")


def _out_of_memory(width: int, height: int, tile: int) -> TocsrError:
    return TocsrError(
        f"the memory must hold a tile of {tile} px and the result of a {width} x {height} image",
        "choose a smaller --tile",
        ExitCode.RESOURCES,
    )
