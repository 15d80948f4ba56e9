"""The benchmarks that set our model beside others."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tocsr.preset_files import SHIPPED_MODEL

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def peer():
    return importlib.import_module("real_esrgan")


def test_real_esrgan_has_its_published_size_and_factor(peer):
    with torch.device("meta"):
        network = peer.RealESRGAN()
        result = network(torch.empty(1, 3, 8, 12))
    assert sum(p.numel() for p in network.parameters()) == 16_697_987
    assert result.shape == (1, 3, 32, 48)


def test_weights_of_ncnn_come_in_the_order_they_run(peer, tmp_path):
    rng = np.random.default_rng(0)
    lines, blobs, stored = [], b"", []
    for number, (outputs, size) in enumerate([(2, 9), (3, 4)]):  # 9 halves are padded to 20 bytes
        weight = rng.normal(size=size).astype(np.float16)
        bias = rng.normal(size=outputs).astype(np.float32)
        data = weight.tobytes() + bytes(-2 * size % 4)
        blobs += (0x01306B47).to_bytes(4, "little") + data + bias.tobytes()
        lines += [
            f"Convolution c{number} 1 1 a b 0={outputs} 1=3 4=1 5=1 6={size}",
            "Split s 1 2 a",
        ]
        stored.append((weight, bias))
    (tmp_path / "net.param").write_text("\n".join(lines))
    (tmp_path / "net.bin").write_bytes(blobs)
    found = list(peer.ncnn_convolutions(tmp_path / "net"))
    for (weight, bias), (read_weight, read_bias) in zip(stored, found, strict=True):
        assert np.array_equal(read_weight.numpy(), weight.astype(np.float32))
        assert np.array_equal(read_bias.numpy(), bias)


def test_quality_measures_resamplers_and_the_model_on_each_set(tmp_path, capsys, monkeypatch):
    quality = importlib.import_module("quality")
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC).save(
            photos / f"{name}.png"
        )
    quality.main(["--kodak", str(photos), "--out", str(tmp_path / "out"), "--num_threads", "1"])
    out, _ = capsys.readouterr()
    rows = [line for line in out.splitlines() if line.startswith("|") and "---" not in line]
    systems = [row.split("|")[1].strip() for row in rows]
    assert systems == ["system", "bicubic", "lanczos", SHIPPED_MODEL.name] * 3
    assert out.count("ST-LPIPS is not measured") == 3


def test_speed_measures_one_system_in_a_process(capsys):
    speed = importlib.import_module("speed")
    speed.main(["--system", "Lanczos", "--side", "32", "--num_threads", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"seconds", "peak", "rate"}
    assert all(value > 0 for value in found.values())


def test_a_line_of_speed_says_what_part_of_the_rate_is_reached():
    speed = importlib.import_module("speed")
    found = [
        {"seconds": 0.5, "peak": 100.0, "rate": 8e9},
        {"seconds": 0.5, "peak": 90, "rate": 8e9},
    ]
    assert speed.line("x", found, 10**9, 2.0) == "| x | 0.5 | 0.25 | 100 | 1 | 50 % |"
    assert speed.line("x", found, None, 2.0) == "| x | 0.5 | 0.25 | 100 |  |  |"
