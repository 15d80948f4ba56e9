"""The HTTP API of the server: what it gives, what it refuses, and what it leaves behind."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra web is not installed")

from starlette.testclient import TestClient

from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import TocsrError
from tocsr.web.app import make_app
from tocsr.web.configs import ServeConfig
from tocsr.web.jobs import WebJob, WebJobs
from tocsr.web.request import file_name
from tocsr.web.serve import run

HERE = "http://127.0.0.1:8000"


def pixels(height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, name: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, name, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


PHOTO = encoded(pixels())


class Gated(Upscaler):
    """Waits after each tile until the gate is open."""

    def __init__(self, like: Upscaler) -> None:
        vars(self).update(vars(like))
        self.gate = threading.Event()
        self.num_tiles = 0

    def __call__(self, image, seed, tile, report, *rest):
        def gated(*progress):
            self.num_tiles += 1
            assert self.gate.wait(20)
            report(*progress)

        return super().__call__(image, seed, tile, gated, *rest)


class Slow(Upscaler):
    """Takes a little more than a second for each tile."""

    def __init__(self, like: Upscaler) -> None:
        vars(self).update(vars(like))

    def __call__(self, image, seed, tile, report, *rest):
        def slow(*progress):
            time.sleep(1.05)
            report(*progress)

        return super().__call__(image, seed, tile, slow, *rest)


@pytest.fixture
def upscaler(toy_model) -> Upscaler:
    return Upscaler.from_pretrained(toy_model, num_threads=1)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@contextmanager
def serving(upscaler: Upscaler, folder: Path, **limits):
    jobs = WebJobs(upscaler, ServeConfig(**limits), folder, lambda *_: None)
    with TestClient(make_app(jobs), base_url=HERE) as client:
        yield client


@pytest.fixture
def client(upscaler, folder):
    with serving(upscaler, folder) as client:
        yield client


def until(holds, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


def ended(client: TestClient, job: dict) -> dict:
    """The job once it neither waits nor runs."""

    def told() -> dict:
        return client.get(f"/api/jobs/{job['id']}").json()

    until(lambda: told()["state"] not in ("queued", "running"))
    return told()


def add(client: TestClient, content: bytes = PHOTO, query: str = "") -> dict:
    answer = client.post(f"/api/jobs{query}", content=content)
    assert answer.status_code == 202, answer.text
    return answer.json()


def ask(jobs: WebJobs, path: str, receive, headers: list = ()) -> list[dict]:
    """What the application sends where `receive` gives it one message after the other."""
    host = (b"host", b"localhost")
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    sent = []

    async def received():
        return receive()

    async def send(message):
        sent.append(message)

    asyncio.run(make_app(jobs)({**scope, "headers": [host, *headers]}, received, send))
    return sent


# ---- what it gives


def test_one_request_gives_what_the_upscaler_gives(client, upscaler):
    answer = client.post("/api/upscale?name=a.png&seed=3", content=PHOTO)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'attachment; filename="a_x4.png"'
    assert np.array_equal(decoded(answer.content), upscaler(pixels(), seed=3))


def test_a_job_gives_what_the_upscaler_gives(client, upscaler):
    job = ended(client, add(client))
    assert (job["state"], job["progress"], job["error"]) == ("done", 1, None)
    assert (job["width"], job["height"]) == (160, 120)
    content = client.get(job["result"]["url"]).content
    assert len(content) == job["result"]["bytes"]
    assert np.array_equal(decoded(content), upscaler(pixels()))


def test_a_form_is_taken_as_the_body_is(client):
    sent = client.post("/api/upscale", files={"file": ("b.png", PHOTO)})
    assert 'filename="b_x4.png"' in sent.headers["content-disposition"]
    assert sent.content == client.post("/api/upscale?name=b.png", content=PHOTO).content


@pytest.mark.parametrize(
    ("query", "kind", "size"),
    [
        ("upscale=2.5", "PNG", (100, 75)),
        ("width=90", "PNG", (90, 68)),
        ("upscale=1&format=jpg&quality=50", "JPEG", (40, 30)),
        ("upscale=8&color_fix=adain&strip_metadata=true", "PNG", (320, 240)),
    ],
)
def test_the_query_has_the_options_of_upscale(client, query, kind, size):
    image = Image.open(io.BytesIO(client.post(f"/api/upscale?{query}", content=PHOTO).content))
    assert (image.format, image.size) == (kind, size)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_a_photo_on_its_side_is_measured_upright(client, kind):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    job = add(client, encoded(pixels(), kind, exif=exif))
    assert (job["width"], job["height"]) == (120, 160)
    content = client.get(ended(client, job)["result"]["url"]).content
    assert decoded(content).shape == (160, 120, 3)


def test_heic_is_taken_given_and_shown(client):
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    heif.register_heif_opener()
    job = ended(client, add(client, encoded(pixels(), "HEIF"), "?format=heic"))
    assert job["error"] is None
    assert Image.open(io.BytesIO(client.get(job["result"]["url"]).content)).format == "HEIF"
    before = client.get(job["result"]["previews"]["before"])
    assert before.headers["content-type"] == "image/jpeg"


def test_the_progress_goes_by_area_over_all_passes():
    passes = [(30, 40), (60, 80)]
    job = WebJob(
        id="",
        config=None,
        files=None,
        photo_size=passes[0],
        result_size=(240, 320),
        passes=passes,
        is_shown=True,
    )
    job.advance_(1, 1)
    assert job.progress == pytest.approx(1 / 5)  # 1200 of 6000 pixels
    job.advance_(1, 2)
    assert job.progress == pytest.approx(3 / 5)  # and half of 4800


def test_what_a_browser_cannot_show_has_previews(client):
    content = encoded(pixels(), "TIFF")
    result = ended(client, add(client, content, "?format=tif"))["result"]
    sizes = {
        name: Image.open(io.BytesIO(client.get(url).content)).size
        for name, url in result["previews"].items()
    }
    assert sizes == {"before": (40, 30), "after": (160, 120)}
    shown = ended(client, add(client))
    assert shown["result"]["previews"] == {}
    assert client.get(f"/api/jobs/{shown['id']}/after").status_code == 404


def test_a_preview_that_fails_leaves_the_result(client, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("tocsr.web.photo._write_preview", fails)
    job = ended(client, add(client, query="?format=tif"))
    assert job["state"] == "done"
    assert client.get(job["result"]["url"]).status_code == 200


def test_a_result_that_was_answered_with_is_not_kept(client, folder):
    assert client.post("/api/upscale", content=PHOTO).status_code == 200
    until(lambda: not list(folder.iterdir()))


def test_a_failed_photo_does_not_push_out_a_large_result(upscaler, folder):
    noise = encoded(pixels(200, 200))
    with serving(upscaler, folder, keep_mb=1) as client:
        kept = ended(client, add(client, noise))
        assert ended(client, add(client, noise[:-4000]))["state"] == "failed"
        assert client.get(kept["result"]["url"]).status_code == 200


def test_the_limits_are_told(client):
    told = client.get("/api/info").json()
    assert (told["upscale"], told["queued"], told["running"]) == (4, 0, 0)
    assert told["limits"]["max_upload_bytes"] == 50_000_000


# ---- what it refuses


@pytest.mark.parametrize(
    ("query", "content", "status", "message"),
    [
        ("", b"hello", 415, "must be a PNG, JPEG"),
        ("", b"", 415, "must be a PNG, JPEG"),
        ("", PHOTO[:900], 400, "photo is damaged or cut short"),
        ("upscal=2", PHOTO, 400, "no option 'upscal'; did you mean 'upscale'?"),
        ("inputs=x", PHOTO, 400, "no option 'inputs'"),
        ("model=x", PHOTO, 400, "no option 'model'"),
        ("upscale=two", PHOTO, 400, "upscale must be a number, got 'two'"),
        ("upscale=nan", PHOTO, 400, "upscale must be a factor from 1 to 8"),
        ("upscale=9", PHOTO, 400, "upscale must be a factor from 1 to 8"),
        ("format=gif", PHOTO, 400, "format must be one of auto, png"),
        ("strip_metadata=1", PHOTO, 400, "strip_metadata must be true or false"),
        ("width=4000", PHOTO, 400, "width and height must ask for a factor of 1 to 8"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(client, folder, query, content, status, message):
    answer = client.post(f"/api/upscale?{query}", content=content)
    error = answer.json()["error"]
    assert (answer.status_code, message in error) == (status, True), error
    assert str(folder) not in error
    assert "\n" not in error


def test_a_form_without_a_file_is_refused(client):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/jobs", content=b"--x--\r\n", headers=form)
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "a form must hold one file, it holds none"},
    )


@pytest.mark.parametrize("form", [False, True])
def test_an_upload_is_counted_while_it_comes(upscaler, folder, form):
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    chunks = [head if form else b"", *([bytes(100_000)] * 20)]
    left = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    headers = [(b"content-type", b"multipart/form-data; boundary=x")] if form else []
    jobs = WebJobs(upscaler, ServeConfig(max_upload_mb=1), folder, lambda *_: None)
    sent = ask(jobs, "/api/jobs", lambda: left.pop(0), headers)
    assert sent[0]["status"] == 413
    assert sent[1]["body"] == b'{"error":"a photo must have at most 1 MB, this one has more"}'
    assert len(left) == (10 if form else 9)  # the form's head has the bytes of the eleventh
    assert list(folder.iterdir()) == []
    jobs.close()


def test_an_upload_whose_length_is_too_large_is_refused_unread(upscaler, folder):
    with serving(upscaler, folder, max_upload_mb=1) as client:
        assert client.post("/api/jobs", content=bytes(1_000_001)).status_code == 413


@pytest.mark.parametrize("side", [2000, 20_000])  # 20000 x 20000 is a bomb for Pillow too
def test_a_photo_of_too_many_pixels_is_refused_by_its_header(upscaler, folder, side):
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    with serving(upscaler, folder, max_pixels=1_000_000) as client:
        answer = client.post("/api/jobs", content=buffer.getvalue())
    assert answer.status_code == 413
    assert "a photo must have at most 1000000 pixels" in answer.json()["error"]


def test_a_result_of_too_many_pixels_is_refused(upscaler, folder):
    with serving(upscaler, folder, max_result_pixels=160 * 120) as client:
        add(client)
        answer = client.post("/api/jobs?upscale=4.1", content=PHOTO)
    assert answer.status_code == 413
    assert "this one would have 164 x 123" in answer.json()["error"]


def test_a_photo_that_takes_too_long_is_stopped(upscaler, folder):
    with serving(Slow(upscaler), folder, max_seconds=1) as client:
        answer = client.post("/api/upscale", content=PHOTO)
        assert answer.status_code == 504
        job = ended(client, add(client))
    assert job["state"] == "failed"
    assert job["error"] == "a photo must be done in 1 seconds, this is not"


def test_a_full_queue_says_when_to_come_again(upscaler, folder):
    gated = Gated(upscaler)
    with serving(gated, folder, max_queue=2) as client:
        first = add(client)
        until(lambda: gated.num_tiles == 1)
        second, third = add(client), add(client)
        assert [job["position"] for job in (first, second, third)][1:] == [1, 2]
        answer = client.post("/api/jobs", content=PHOTO)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        client.delete(f"/api/jobs/{second['id']}")
        assert client.get(f"/api/jobs/{third['id']}").json()["position"] == 1
        fourth = add(client)
        gated.gate.set()
        assert ended(client, fourth)["state"] == "done"


@pytest.mark.parametrize("path", ["", "/result", "/before"])
def test_an_unknown_id_is_not_found(client, path):
    answer = client.get(f"/api/jobs/nobody{path}")
    assert (answer.status_code, "no photo with this id" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("localhost:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.0.7:8000", 200),
        ("photos.example.org", 200),
    ],
)
def test_a_foreign_name_of_this_machine_is_refused(upscaler, folder, host, status):
    with serving(upscaler, folder, allowed_hosts=("photos.example.org",)) as client:
        assert client.get("/api/info", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [(HERE, 202), ("http://evil.example", 403), ("http://127.0.0.1:9000", 403), ("null", 403)],
)
def test_what_another_site_asks_is_refused(client, origin, status):
    answer = client.post("/api/jobs", content=PHOTO, headers={"Origin": origin})
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/", "/api/info", "/nothing"])
def test_every_answer_says_what_a_browser_must_keep_to(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob:")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a b.png", "a b.png"),
        ("Ünï.jpg", "Ünï.jpg"),
        ("..", "photo"),
        ("", "photo"),
        ('a"\n<b>.png', "a___b_.png"),
        ("x" * 99 + ".png", "x" * 36 + ".png"),
    ],
)
def test_a_photo_gets_a_name_that_is_safe_on_a_disk(sent, name):
    assert file_name(sent) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "port must be in 0..65535, got 65536"),
        ({"max_queue": 0}, "max_queue must be at least 1, got 0"),
        ({"num_threads": -1}, "num_threads must be at least 0, got -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(options, message):
    with pytest.raises(TocsrError, match=re.escape(message)):
        ServeConfig(**options)


# ---- several at once, and cancelled


def test_several_photos_are_worked_on_at_once(upscaler, folder):
    gated = Gated(upscaler)
    with serving(gated, folder, num_workers=2) as client:
        both = [add(client), add(client)]
        until(lambda: gated.num_tiles == 2)
        assert client.get("/api/info").json()["running"] == 2
        gated.gate.set()
        urls = [ended(client, job)["result"]["url"] for job in both]
        assert client.get(urls[0]).content == client.get(urls[1]).content


def test_a_cancelled_photo_stops_after_its_tile_and_frees_its_place(upscaler, folder):
    gated = Gated(upscaler)
    with serving(gated, folder) as client:
        job = add(client, encoded(pixels(300, 600)))  # 6 tiles
        until(lambda: gated.num_tiles == 1)
        assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "running"
        assert client.delete(f"/api/jobs/{job['id']}").json()["state"] == "cancelled"
        gated.gate.set()
        until(lambda: client.get("/api/info").json()["running"] == 0)
        assert gated.num_tiles == 1
        until(lambda: not (folder / job["id"]).exists())
        assert client.get(f"/api/jobs/{job['id']}/result").status_code == 409
        assert ended(client, add(client))["state"] == "done"


def test_a_photo_that_waits_can_be_cancelled(upscaler, folder):
    gated = Gated(upscaler)
    with serving(gated, folder) as client:
        first = add(client)
        until(lambda: gated.num_tiles == 1)
        second = add(client)
        assert second["state"] == "queued"
        assert client.delete(f"/api/jobs/{second['id']}").json()["state"] == "cancelled"
        assert not (folder / second["id"]).exists()
        gated.gate.set()
        assert ended(client, first)["state"] == "done"
    assert gated.num_tiles == 1


def test_a_client_that_goes_away_cancels_its_photo(upscaler, folder):
    gated = Gated(upscaler)
    jobs = WebJobs(gated, ServeConfig(), folder, lambda *_: None)
    left = [{"type": "http.request", "body": PHOTO}, {"type": "http.disconnect"}]
    ask(jobs, "/api/upscale", lambda: left.pop(0) if len(left) > 1 else left[0])
    assert jobs.counts()["queued"] == 0
    gated.gate.set()
    until(lambda: list(folder.iterdir()) == [])  # what a finished photo would not leave
    jobs.close()


# ---- what it leaves behind


def test_a_result_that_is_deleted_is_gone(client, folder):
    job = ended(client, add(client))
    client.delete(f"/api/jobs/{job['id']}")
    assert client.get(job["result"]["url"]).status_code == 404
    assert list(folder.iterdir()) == []


def test_a_photo_is_removed_when_its_result_is_there(client, folder):
    ended(client, add(client, query="?name=a.png"))
    assert [path.name for path in folder.rglob("*.*")] == ["a_x4.png"]


def test_results_have_a_lifetime(upscaler, folder):
    with serving(upscaler, folder, keep_seconds=1) as client:
        add(client)
        until(lambda: any(folder.rglob("*_x4.png")))
        until(lambda: list(folder.iterdir()) == [])  # without being asked for


def test_the_oldest_results_make_room_and_the_latest_stays(upscaler, folder):
    noise = encoded(pixels(200, 200))  # its result has more than 1 MB
    with serving(upscaler, folder, keep_mb=1) as client:
        first, second = (ended(client, add(client, noise)) for _ in range(2))
        assert first["result"]["bytes"] > 10**6
        assert client.get(first["result"]["url"]).status_code == 404
        assert client.get(second["result"]["url"]).status_code == 200


def test_nothing_is_left_when_the_server_ends(upscaler, folder):
    gated = Gated(upscaler)
    with serving(gated, folder) as client:
        add(client)
        until(lambda: gated.num_tiles == 1)
        add(client)
        gated.gate.set()
    assert list(folder.iterdir()) == []


def test_an_address_that_is_taken_is_named(toy_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TocsrError, match=f"cannot listen on http://127.0.0.1:{port}"):
            run(ServeConfig(port=port, model=toy_model))


def test_a_request_under_way_is_told_that_the_server_stops(upscaler, folder):
    gated = Gated(upscaler)
    jobs = WebJobs(gated, ServeConfig(), folder, lambda *_: None)
    app = make_app(jobs, is_ending=lambda: gated.num_tiles > 0)
    with TestClient(app, base_url=HERE) as client:
        answer = client.post("/api/upscale", content=PHOTO)
        gated.gate.set()
    assert (answer.status_code, answer.json()) == (503, {"error": "the server is being stopped"})


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_cleanly(toy_model, tmp_path, stop):
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "tocsr", "serve", "--port=0", "-m", str(toy_model)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    server = subprocess.Popen(command, **pipes, env=environment)
    try:
        url = server.stderr.readline().split()[0]
        with urlopen(f"{url}/api/info", timeout=30) as answer:
            assert answer.status == 200
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        server.send_signal(stop)
        printed, _ = server.communicate(timeout=30)
    finally:
        server.kill()
    assert (server.returncode, printed.splitlines()[0]) == (0, "photos: 0")
    # nor ONNX Runtime's .ses, which its telemetry would have left
    assert list((tmp_path / "tmp").iterdir()) == []
