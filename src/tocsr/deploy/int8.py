"""A model in 8 bits: NNCF's quantisation after training, on photos, kept only if it is faithful."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import nncf
import numpy as np

from tocsr.config import require
from tocsr.deploy.graphs import GRAPH, INT8_FORM
from tocsr.deploy.image_files import list_images, read_image
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.openvino_session import OpenVinoGraph, checked_form, read_model
from tocsr.deploy.pixels import to_8_bits
from tocsr.deploy.tiling import Span, Tile, position_noise, round_up
from tocsr.deploy.upscaler import upsampled
from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tocsr.deploy.graphs import Graph

MIN_PSNR = 40.0  # dB to the float result
MIN_PHOTOS = 8
HELD_OUT = 4  # every so many photos one is measured on and not quantised with
SIDE = 256  # of the result of a photo's crop, in pixels, rounded up to the model's multiple


def crops(photos: Path, facts: ModelFacts) -> list[dict[str, NDArray[np.float32]]]:
    """What the graph is given for the middle of each photo.

    Args:
        photos: A folder of photos such as will be upscaled; smaller ones than a crop are left out.
        facts: Of the model.

    Raises:
        TocsrError: There are too few.
    """
    side = round_up(SIDE, facts.pixel_multiple) // facts.upscale
    latent = side * facts.upscale // facts.latent_stride
    span, found = Span(0, side, 0, side), []
    for number, path in enumerate(list_images(photos)):
        rgb = to_8_bits(read_image(path).rgb)
        top, left = ((size - side) // 2 for size in rgb.shape[:2])
        if min(top, left) < 0:
            continue
        crop = rgb[top : top + side, left : left + side]
        image = upsampled(crop, Tile(span, span), facts.upscale, side)
        noise = position_noise(number, 0, 0, latent, latent, facts.latent_channels)
        found.append({"image": image[None], "noise": noise[None]})
    require(
        len(found) >= MIN_PHOTOS,
        f"int8 needs at least {MIN_PHOTOS} photos of {side} x {side} pixels or more in {photos}, "
        f"it has {len(found)}",
    )
    return found


def quantised(graph: Path, inputs: list[dict[str, NDArray[np.float32]]]) -> Any:
    """The graph with convolutions and linear layers in 8 bits, as OpenVINO's model."""
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            read_model(graph),
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
        )


def psnr(one: Graph, other: Graph, inputs: list[dict[str, NDArray[np.float32]]]) -> float:
    """PSNR between two graphs' results as files of 8 bits hold them, over all pixels, in dB."""

    def levels(graph: Graph, given: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.clip(np.rint((graph(given["image"], given["noise"]) + 1) * 127.5), 0, 255)

    errors = [np.square(levels(one, given) - levels(other, given)).mean() for given in inputs]
    error = float(np.mean(errors))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")


def write_int8(folder: Path, photos: Path) -> float:
    """Writes an exported folder's graph in 8 bits, if its results stay those of the float graph.

    Args:
        folder: It.
        photos: A folder of photos; every fourth is held out, to measure on.

    Returns:
        PSNR to the float results in dB.

    Raises:
        TocsrError: It is below `MIN_PSNR` (MODEL), and nothing is written; too few photos.
    """
    graph = folder / GRAPH
    inputs = crops(photos, ModelFacts.read(folder / "upscaler.json"))
    used = [given for number, given in enumerate(inputs) if number % HELD_OUT]
    held_out = inputs[::HELD_OUT]
    with checked_form(quantised(graph, used), folder / INT8_FORM) as made:
        found = psnr(OpenVinoGraph(graph, float32=True), made, held_out)
        if found < MIN_PSNR:
            raise TocsrError(
                f"8 bits must keep {MIN_PSNR:.0f} dB to the float result, they keep {found:.1f} dB "
                f"on {len(held_out)} photos held out; the file was not kept",
                code=ExitCode.MODEL,
            )
    return found
