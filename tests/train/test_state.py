import torch
from torch import nn

from tocsr.config import OptimConfig
from tocsr.models.memory import LiveBytes
from tocsr.train.state import TrainingState


def trained(ema_decay: float) -> TrainingState:
    """A state after one step of two layers that share their weight."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net[1].weight = net[0].weight
    state = TrainingState.start(net, OptimConfig(ema_decay=ema_decay))
    net(torch.ones(1, 8)).sum().backward()
    state.optimizer.step()
    return state


def test_without_a_decay_no_average_is_kept():
    assert trained(0.0).ema is None


def test_a_checkpoint_copies_only_what_shares_memory(tmp_path):
    state = trained(0.0)
    with LiveBytes() as live:
        state.save(tmp_path / "state.safetensors")
    assert live.peak == 4 * 8 * 8  # the second name of the one weight


def test_a_state_with_shared_weights_comes_back_bitwise(tmp_path):
    for decay in (0.0, 0.9):
        saved, loaded = trained(decay), trained(decay)
        saved.step = 1
        saved.save(tmp_path / "state.safetensors")
        for p in loaded.trained.parameters():
            nn.init.zeros_(p)
        loaded.load(tmp_path / "state.safetensors")
        both = zip(saved.trained.parameters(), loaded.trained.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in both)
        assert loaded.step == 1
