"""An evaluation as one HTML file that needs nothing else: figures, plots, pictures.

The page itself is `assets/report.html`, which builds everything from the result file's JSON.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tocsr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from tocsr.deploy.pictures import Pictures

TEMPLATE = Path(tocsr.__file__).parent / "assets" / "report.html"
MAX_PICTURE_BYTES = 15_000_000  # of all pictures together, as they stand in the file
QUALITY = 90  # of WebP; figures are of the pixels themselves
_DATA = "@DATA@"


def report_page(result: Mapping[str, Any], pictures: Pictures) -> str:
    """The page, with the whole result file and the pictures in it.

    Pictures are taken from both ends, worst, best, next to worst and so on, as long as all together
    are at most `MAX_PICTURE_BYTES`; the page names those that are left out.

    Args:
        result: Of an evaluation, as its file holds it.
        pictures: Of its worst and best images.
    """
    chosen, embedded, left_out, num_bytes = pictures.chosen, {}, [], 0
    for name in chosen.names:
        if name not in (*chosen.worst, *chosen.best):
            continue
        columns = {title: data_uri(image) for title, image in pictures.of[name].items()}
        num_bytes += sum(map(len, columns.values()))
        if num_bytes > MAX_PICTURE_BYTES:
            left_out.append(name)
        else:
            embedded[name] = columns
    data = {
        "result": result,
        "chosen": asdict(chosen),
        "pictures": embedded,
        "left_out": left_out,
    }
    # in JSON `<` stands in strings only, and there a browser must not take it for a tag
    text = json.dumps(data).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace(_DATA, text)


def data_uri(image: Image.Image) -> str:
    """An image as WebP inside an address."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
