"""The page of the server: its files, and the page itself in headless Chromium."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from chromium import CHROMIUM, chromium
from PIL import Image

pytest.importorskip("starlette", reason="the extra web is not installed")

from tocsr.deploy.upscaler import Upscaler
from tocsr.web.app import PAGE

FILES = sorted(PAGE.iterdir())
ELSEWHERE = re.compile(r"(?:[a-z]+:)?//[\w.-]+\.\w+|@import|\burl\(", re.IGNORECASE)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_place(path):
    text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert ELSEWHERE.findall(text) == []


@pytest.mark.parametrize(
    "text", ["https://cdn.example.org/x.js", "//fonts.example.com", "@import 'a'", "url(a.woff)"]
)
def test_another_place_would_be_seen(text):
    assert ELSEWHERE.search(text)


def test_what_the_page_asks_for_is_there():
    asked = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            asked.extend(value for name, value in attrs if name in ("src", "href"))

    Reader().feed((PAGE / "index.html").read_text(encoding="utf-8"))
    assert {"style.css", "app.js"} <= set(asked) <= {path.name for path in FILES}


@pytest.fixture
def url(toy_model):
    command = [sys.executable, "-m", "tocsr", "serve", "--port=0", "-m", str(toy_model)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield server.stderr.readline().split()[0]
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def zoom(page) -> float:
    return float(page.value("document.getElementById('zoom').textContent").split()[0])


def edge(page) -> int:
    return int(page.value("document.getElementById('cut').getAttribute('aria-valuenow')"))


@needs_chromium
def test_a_person_drops_a_photo_compares_zooms_and_downloads(url, photo, toy_model, tmp_path):
    with chromium(tmp_path / "profile") as page:
        page.call("Page.navigate", url=url)
        page.until("document.getElementById('limits')?.textContent.startsWith('Up to')")
        page.drop("#drop", photo)
        page.until("document.getElementById('working').hidden && !result.hidden")
        assert page.value("document.getElementById('after').naturalWidth") == 640
        assert page.value("document.getElementById('before').naturalWidth") == 160

        x, y = page.middle("#cut")
        assert edge(page) == 50
        page.drag((x, y), (x - 200, y))
        moved = edge(page)
        assert moved < 40
        page.value("document.getElementById('cut').focus()")
        page.press("ArrowRight")
        assert edge(page) == moved + 2

        fitted = zoom(page)
        page.click("#in")
        assert zoom(page) == pytest.approx(1.5 * fitted, abs=1)  # both are whole percents
        page.click("#one")
        page.click("#fit")
        assert zoom(page) == fitted

        # the edge is white, and right of it there is the result's noise
        middle, cut = round(page.middle("#view")[1]) + 60, int(page.middle("#cut")[0])
        window = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        assert (window[middle - 5 : middle + 5, cut] == 255).all()
        assert window[middle, cut + 10 : cut + 300].std() > 10

        fetched = page.value(
            "fetch(document.getElementById('download').href).then(r => r.bytes())"
            ".then(b => Array.from(b))"
        )
        expected = Upscaler.from_pretrained(toy_model)(np.asarray(Image.open(photo)))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(bytes(fetched)))), expected)
        assert page.value("document.getElementById('download').download") == "photo_x4.png"
        assert all(asked.startswith((url, f"blob:{url}")) for asked in page.requested)
        assert len(page.requested) >= 6  # page, style, two scripts, info, the job


@needs_chromium
def test_what_is_no_photo_is_said_on_the_page(url, tmp_path):
    (tmp_path / "letter.txt").write_text("hello")
    with chromium(tmp_path / "profile") as page:
        page.call("Page.navigate", url=url)
        page.until("document.getElementById('limits')?.textContent.startsWith('Up to')")
        page.drop("#drop", tmp_path / "letter.txt")
        page.until("!document.getElementById('error').hidden")
        said = page.value("document.getElementById('error').textContent")
    assert said.startswith("The photo must be a PNG, JPEG")
