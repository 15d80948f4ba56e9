"""The upscaler: a finished model behind one call on images; needs no torch."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from tocsr.config import require
from tocsr.deploy.graphs import broken_model, open_graph
from tocsr.deploy.image_kinds import upscaled_kind
from tocsr.deploy.memory import tile_sizes
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.tiling import (
    Level,
    Tile,
    mirrored,
    position_noise,
    round_up,
    strips,
    tiles,
)
from tocsr.errors import ExitCode, TocsrError
from tocsr.models.fidelity import check_fidelity
from tocsr.preset_files import SHIPPED_MODEL
from tocsr.runs import silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tocsr.deploy.graphs import Graph
    from tocsr.runs import Report

Kind = TypeVar("Kind")  # a NumPy array, a Pillow image or a torch tensor


class Upscaler:
    """Makes a photo n times larger on each side, in one step of the network per tile.

    `upscaler(image)` maps an image to one n times as high and as wide, n = `upscaler.upscale`.

    Input: uint8 (H, W, 3), RGB in 0..255, or uint16 in 0..65535, sRGB as files hold it; any H and W
    from 1 px on, padded inside by reflection and cropped again. Output: the same type,
    (n H, n W, 3), RGB. Pillow images and torch tensors go in and come out too.

    The result is a function of the image, the seed and the tile size: bitwise the same on every
    call on one machine with one version of one engine, and within a level of it in any other that
    computes in float32. The noise belongs to a place, so the tile size changes the result only as
    far as the network sees beyond half of the model's halo; an image that fits one tile is
    computed whole. Memory grows with the tile and, by 12 bytes per pixel, with one row of tiles of
    the result; beside that only the image and the result are held. Calls from several
    threads are safe.
    """

    def __init__(self, facts: ModelFacts, graph: Graph) -> None:
        self.facts = facts
        self._graph = graph

    @property
    def upscale(self) -> int:
        """The factor n between the sides of the result and of the image."""
        return self.facts.upscale

    @property
    def engine(self) -> str:
        """What computes: the engine with its version, the device and the precision."""
        return self._graph.engine

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | None = None,
        num_threads: int = 0,
        backend: str = "auto",
        device: str = "cpu",
    ) -> Upscaler:
        """Loads a model folder.

        Args:
            folder: A folder that `tocsr export` wrote; None takes the model in the package.
            num_threads: CPU threads; 0 takes all cores.
            backend: As in `tocsr.deploy.graphs.open_graph`.
            device: Likewise.

        Raises:
            TocsrError: A file is missing or broken (code MODEL); the engine or the device is not
                there (USAGE).
        """
        folder = SHIPPED_MODEL if folder is None else Path(folder)
        if not folder.is_dir():
            raise broken_model(f"the model must be a folder, {folder} is none")
        facts = ModelFacts.read(folder / "upscaler.json")
        return cls(facts, open_graph(folder, backend, device, num_threads))

    def __call__(
        self,
        image: Kind,
        seed: int = 0,
        tile: int = 0,
        report: Report = silent,
        label: str = "",
        fidelity: float = 0.0,
        out: NDArray[Level] | None = None,
    ) -> Kind:
        """Upscales one image; the class says what goes in and what comes out.

        Args:
            image: uint8 or uint16 (H, W, 3), RGB; a Pillow image; or a floating-point torch tensor
                (3, H, W) or (B, 3, H, W) in [0, 1].
            seed: Of the noise the network starts from; taken modulo 2^64.
            tile: Most pixels of `image` along a side of a tile's core, which the halo adds to;
                rounded up to what the network's strides allow. 0 takes what the free memory holds,
                at most 512, and less when it runs out all the same.
            report: Called with `label`, tiles done and tiles in all.
            label: What `report` calls this image.
            fidelity: Not in the paper: 0 is as trained; up to 1 the start noise is scaled by
                `1 - fidelity`, and with it goes detail that only the noise makes.
            out: Where the result goes, of its shape and type: an array in a file, say. With an
                image in a file too, the memory holds one row of tiles. For arrays alone.

        Returns:
            The image n times larger, of the same kind: of an array's type; a Pillow image gray
            where it was gray and transparent where it was; a tensor on its device.

        Raises:
            TocsrError: Not such an image; a fidelity that the model cannot be turned to; memory
                ran out (RESOURCES); the graph failed (MODEL).
        """
        self.check_fidelity(fidelity)
        if tile < 0:
            raise TocsrError(f"tile must be at least 0 pixels, got {tile}")

        def enlarge(levels: Any) -> Any:
            return self._enlarged(levels, seed, tile, report, label, fidelity, out)

        if isinstance(image, np.ndarray):
            return enlarge(image)
        require(out is None, f"out is for NumPy arrays, the image is {type(image)}")
        return upscaled_kind(image, enlarge)

    def _enlarged(
        self,
        image: NDArray[Level],
        seed: int,
        tile: int,
        report: Report,
        label: str,
        fidelity: float,
        out: NDArray[Level] | None,
    ) -> NDArray[Level]:
        """An array, tile by tile; in smaller tiles where the memory runs out."""
        _check_image(image)
        height, width, _ = image.shape
        multiple = self.facts.pixel_multiple // self.upscale
        halo = -(-self.facts.halo // self.upscale)
        run = partial(self._run, image, seed=seed, fidelity=fidelity)
        *larger, least = [tile] if tile else tile_sizes(width, halo, self.upscale)
        try:
            if out is None:
                out = np.empty((self.upscale * height, self.upscale * width, 3), image.dtype)
            for size in larger:
                with suppress(MemoryError):
                    parts = tiles(height, width, size, halo, multiple)
                    return _filled(out, parts, run, self.upscale, report, label)
            parts = tiles(height, width, least, halo, multiple)
            return _filled(out, parts, run, self.upscale, report, label)
        except MemoryError as error:
            raise _out_of_memory(width, height, least) from error

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
        self, image: NDArray[Level], part: Tile, *, seed: int, fidelity: float
    ) -> NDArray[np.float32]:
        """The graph's result for one tile, (3, n rows, n cols) in [-1, 1]."""
        facts = self.facts
        top, left, height, width = (
            side * facts.upscale // facts.latent_stride
            for side in (part.rows.start, part.cols.start, part.rows.size, part.cols.size)
        )
        noise = position_noise(seed, top, left, height, width, facts.latent_channels)
        noise *= np.float32(1 - fidelity)
        multiple = facts.pixel_multiple // facts.upscale
        pixels = upsampled(image, part, facts.upscale, multiple)
        return self._graph(pixels[None], noise[None])[0]


def _filled(
    out: NDArray[Level],
    parts: list[Tile],
    run: Callable[[Tile], NDArray[np.float32]],
    upscale: int,
    report: Report,
    label: str,
) -> NDArray[Level]:
    """`out`, which the tiles that `run` computes have been blended into."""
    done = count(1)

    def compute(part: Tile) -> NDArray[np.float32]:
        result = run(part)
        report(label, next(done), len(parts), {})
        return result

    height, width = (side // upscale for side in out.shape[:2])
    top = 0
    for strip in strips(parts, compute, height, width, upscale, out.dtype.type):
        out[top : top + len(strip)] = strip
        top += len(strip)
    return out


def upsampled(
    image: NDArray[Level], part: Tile, upscale: int, multiple: int
) -> NDArray[np.float32]:
    """The tile of the bicubic (a = -0.5) upsampling of the whole padded image, unclamped.

    Args:
        image: uint8 or uint16 (H, W, 3).
        part: A tile of it.
        upscale: n.
        multiple: To multiples of it the image is mirrored beyond its right and bottom border.

    Returns:
        float32 (3, n rows, n cols), [-1, 1] but for the overshoot at edges.
    """
    reach = 2  # pixels to either side that bicubic interpolation looks at
    top, left = max(0, part.rows.start - reach), max(0, part.cols.start - reach)
    rows, cols = (
        mirrored(start, min(span.stop + reach, round_up(size, multiple)), size)
        for start, span, size in zip(
            (top, left), (part.rows, part.cols), image.shape[:2], strict=True
        )
    )
    levels = image[rows[:, None], cols]
    region = levels.astype(np.float32) / np.float32(np.iinfo(image.dtype).max / 2) - np.float32(1)
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
