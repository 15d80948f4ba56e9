"""A training whose photos two workers read, killed in the middle."""

import dataclasses
from contextlib import suppress

import pytest
import torch
from torch import nn

from tocsr.config import DataConfig, OptimConfig, Source
from tocsr.runs import Run, silent
from tocsr.train.loop import fit

OPTIM = OptimConfig(num_steps=6, batch_size=4, ema_decay=0.0, checkpoint_every=2, log_every=1)
DATA = DataConfig(sources=[Source(path="builtin", limit=3)], crop=64)


class Killed(BaseException):
    pass


def train(folder, num_workers: int, killed_in_step: int = 0):
    """The weights, and the sample indices of each step that this launch made."""
    torch.manual_seed(0)
    net, seen = nn.Conv2d(3, 3, 1), []

    def loss(batch):
        seen.append(batch.indices)
        if len(seen) == killed_in_step:
            raise Killed
        return {"loss": (net(batch.images) - batch.images).square().mean()}

    data = dataclasses.replace(DATA, num_workers=num_workers)
    where = {"seed": 0, "device": torch.device("cpu"), "report": silent}
    with suppress(Killed):
        fit(Run(folder), "test", {"net": net}, loss, data=data, optim=OPTIM, **where)
    return [p.detach().clone() for p in net.parameters()], seen


@pytest.mark.parametrize("killed_in_step", [1, 3, 4])
def test_with_two_workers_it_goes_on_where_its_checkpoint_stands(tmp_path, killed_in_step):
    whole, expected = train(tmp_path / "whole", 0)
    _, before = train(tmp_path / "killed", 2, killed_in_step)
    weights, after = train(tmp_path / "killed", 2)
    kept = (killed_in_step - 1) // 2 * 2  # of the finished steps those up to a checkpoint
    assert before[:kept] + after == expected == [[4 * s + i for i in range(4)] for s in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(weights, whole, strict=True))
