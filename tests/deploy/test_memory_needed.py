import numpy as np
import pytest

from tocsr.deploy import memory
from tocsr.deploy.memory import available_bytes, check_memory, needed_bytes
from tocsr.errors import ExitCode, TocsrError


def test_a_result_needs_its_bytes_the_networks_and_pillows():
    # 100 x 200 pixels: 4 channels of 2 bytes, Pillow's 4 bytes; 300 x 300 made: 3 of 2
    assert needed_bytes((100, 200), (300, 300), 2, 4) == 20_000 * (8 + 4) + 90_000 * 6


def test_what_fits_is_let_through_and_what_does_not_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**30)
    check_memory(2**30, (1, 1))
    with pytest.raises(TocsrError, match=r"7000 x 9000 pixels needs 2.0 GiB .* 1.0 GiB are free"):
        check_memory(2**31, (9000, 7000))


def test_too_little_memory_has_its_own_code(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    with pytest.raises(TocsrError) as raised:
        check_memory(1, (1, 1))
    assert raised.value.code is ExitCode.RESOURCES


def test_a_system_that_does_not_say_lets_all_through(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert available_bytes() is None
    check_memory(2**60, (1, 1))


def test_the_tighter_of_machine_and_container_counts(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   64 kB\n")
    (tmp_path / "memory.max").write_text("50000\n")
    (tmp_path / "memory.current").write_text("20000\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert available_bytes() == 30000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() == 64 * 1024


def test_memory_is_asked_for_before_the_network_runs(monkeypatch, tmp_path, toy_model):
    from tocsr.deploy.configs import UpscaleConfig
    from tocsr.deploy.image_files import Picture, write_image
    from tocsr.deploy.upscale import run

    write_image(tmp_path / "a.png", Picture(np.zeros((8, 8, 3), np.uint8)), "png")
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    calls = []
    config = UpscaleConfig(inputs=[tmp_path / "a.png"], model=toy_model)
    with pytest.raises(TocsrError, match="of memory") as raised:
        run(config, lambda *call: calls.append(call))
    assert raised.value.code is ExitCode.RESOURCES
    assert calls == []


@pytest.mark.parametrize(
    ("there", "sizes"),
    [
        (None, [512, 256, 128, 64]),
        (2**40, [512, 256, 128, 64]),
        (2 * 16 * 352 * (640 * 352 + 12 * 1000), [256, 128, 64]),
        (2 * 16 * 352 * (640 * 352 + 12 * 1000) - 1, [128, 64]),
        (0, [64]),
    ],
)
def test_tiles_are_those_that_half_of_the_free_memory_holds(monkeypatch, there, sizes):
    monkeypatch.setattr(memory, "available_bytes", lambda: there)
    assert memory.tile_sizes(width=1000, halo=48, upscale=4) == sizes
