"""benchmarks/grid_lock.py: what moves with the grid is told from what belongs to the photo."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tocsr.models.sr import OneStepGenerator
from tocsr.preset_files import SHIPPED_MODEL


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("grid_lock")


def test_a_net_is_in_every_result_and_not_in_their_mean(bench):
    image = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))

    def with_net(image, noise):
        netted = image.clone()
        netted[..., ::8, ::8] += 0.64
        return netted

    with_net.facts = SimpleNamespace(pixel_multiple=64, latent_channels=1)
    results = torch.cat(list(bench.by_place(with_net, image)))
    assert results.shape == (64, 3, 40, 56)
    assert ((results - image).abs().amax(dim=(1, 2, 3)) > 0.6).all()
    torch.testing.assert_close(results.mean(dim=0), image[0] + 0.01)


def test_the_first_place_is_that_of_an_ordinary_result(bench):
    model = OneStepGenerator.from_pretrained(SHIPPED_MODEL).float().eval()
    seen = []

    class Noting(torch.nn.Module):
        facts = model.facts

        def forward(self, image, noise):
            seen.append((image, noise))
            return model(image, noise)

    image = torch.zeros(1, 3, 56, 56)
    first = next(bench.by_place(Noting(), image))
    padded, noise = seen[0]
    assert torch.equal(padded[..., :56, :56], image)
    with torch.no_grad():
        assert torch.equal(first, model(padded, noise)[..., :56, :56])


def test_the_table_has_bicubic_once_and_two_rows_a_model(bench, tmp_path, capsys):
    import numpy as np
    from PIL import Image

    for name, side in (("hr", 64), ("lr", 16)):
        (tmp_path / name).mkdir()
        pixels = np.full((side, side, 3), 128, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "gray.png")
    models = [f"{name}={SHIPPED_MODEL}" for name in ("a", "b")]
    folders = ["--hr", str(tmp_path / "hr"), "--lr", str(tmp_path / "lr")]
    bench.main(["--models", *models, *folders, "--side", "64", "--num_threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    labels = [line.split("|")[1].strip() for line in lines[2:]]
    assert labels == ["bicubic", "a", "a, mean", "b", "b, mean"]
