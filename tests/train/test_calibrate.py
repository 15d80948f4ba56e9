import pytest
import torch
from micro import MICRO

from tocsr.models.folders import base_unet
from tocsr.train.calibrate import (
    build_surrogates,
    feature_distillation_loss,
    stage_outputs,
    surrogate_losses,
)

FEATURES = [torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return base_unet(str(MICRO)).requires_grad_(False)


@pytest.fixture(scope="module")
def record(teacher):
    values = {}
    teacher(torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), record=values)
    return values


def test_the_teachers_features_have_no_loss():
    assert feature_distillation_loss(FEATURES, FEATURES) == 0


def test_outputs_of_zeros_have_loss_1_whatever_the_teachers_scale():
    loss = feature_distillation_loss([0 * f for f in FEATURES], [FEATURES[0], 100 * FEATURES[1]])
    assert loss == pytest.approx(1.0)


def test_every_output_counts_alike():
    off = [FEATURES[0], 2 * FEATURES[1]]  # the second's error has the second's own power
    assert feature_distillation_loss(off, FEATURES) == pytest.approx(0.5)


def test_the_teachers_own_block_on_its_own_input_gives_its_features(teacher, record):
    for stage in teacher.stage_table:
        outputs = stage_outputs(teacher.stages[stage.name], stage, record)
        for port, output in zip(stage.outputs, outputs, strict=True):
            assert torch.equal(output, record[port.name])


def test_a_surrogates_gradient_is_what_it_would_be_alone(teacher, record):
    stages = {stage.name: stage for stage in teacher.stage_table}
    torch.manual_seed(0)
    names = {"E1": ["r1-full-full", "r0-full-pointwise"], "B": ["r1-full-full"]}
    together = build_surrogates(teacher, names)
    surrogate_losses(together, stages, record)["loss"].backward()
    gradients = {n: [p.grad.clone() for p in b.parameters()] for n, b in together.items()}
    for name, block in together.items():
        block.zero_grad()
        surrogate_losses({name: block}, stages, record)["loss"].backward()
        assert all(map(torch.equal, gradients[name], [p.grad for p in block.parameters()]))


def test_surrogates_start_from_the_teachers_weights(teacher):
    block = build_surrogates(teacher, {"E1": ["r1-full-full"]})["E1/r1-full-full"]
    assert torch.equal(
        block.blocks[0].conv1.weight, teacher.stages["E1"].blocks[0].resnets[0].conv1.weight
    )
