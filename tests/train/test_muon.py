import pytest
import torch
from torch import nn

from tocsr.config import OptimConfig
from tocsr.models.memory import training_memory
from tocsr.train.muon import Muon, orthogonalized
from tocsr.train.state import TrainingState


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_an_orthogonalized_matrix_keeps_its_directions_and_loses_its_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ orthogonalized(matrix) @ vt.T  # diagonal where the directions are the same
    assert torch.allclose(core, core.diagonal().diag(), atol=1e-4)
    assert core.diagonal().min() > 0.6
    assert core.diagonal().max() < 1.3


def test_the_first_update_of_a_matrix_has_the_stated_size():
    weight = nn.Parameter(torch.randn(16, 64, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    weight.grad = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    update = orthogonalized(weight.grad)  # a positive factor of the gradient changes nothing
    Muon([weight], lr=0.01).step()
    torch.testing.assert_close(weight.detach(), before - 0.01 * 0.2 * 8 * update)


def test_what_is_no_matrix_takes_adamws_step():
    def trained(optimizer):
        params = [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, 1, 3, 3))]
        step = optimizer(params, lr=0.1, weight_decay=0.1)
        for _ in range(3):
            for i, p in enumerate(params):
                p.grad = torch.full_like(p, i + 1.0)
            step.step()
        return params

    pairs = zip(trained(Muon), trained(torch.optim.AdamW), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_weight_decay_shrinks_a_matrix_by_the_learning_rates_share():
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full((4, 4), 0.95))


def test_a_checkpoint_of_muon_goes_on_bitwise(tmp_path):
    def advance(state, steps):
        for _ in range(steps):
            state.optimizer.zero_grad()
            state.trained(torch.ones(1, 3, 8, 8)).square().sum().backward()
            state.optimizer.step()

    def started():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
        return TrainingState.start(net, OptimConfig(optimizer="muon", lr=1e-2, ema_decay=0.0))

    whole, first, second = started(), started(), started()
    advance(whole, 4)
    advance(first, 2)
    first.save(tmp_path / "state.safetensors")
    second.load(tmp_path / "state.safetensors")
    advance(second, 2)
    both = zip(whole.trained.parameters(), second.trained.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_muon_keeps_one_moment_of_a_matrix_and_the_plan_says_so():
    net = nn.Conv2d(3, 4, 3)
    state = TrainingState.start(net, OptimConfig(optimizer="muon", ema_decay=0.0))
    net(torch.ones(1, 3, 8, 8)).sum().backward()
    state.optimizer.step()
    moments = state.optimizer.state.values()
    kept = 4 * sum(v.numel() for m in moments for k, v in m.items() if k != "step")
    optim = OptimConfig(optimizer="muon", batch_size=1)
    net._supports_gradient_checkpointing = False
    planned = training_memory(
        {"net": net}, ["net"], lambda nets, images: nets["net"](images).sum(), optim, 8
    )
    assert planned.moments == kept == 4 * (108 + 2 * 4)
