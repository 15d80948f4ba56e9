"""The error on the teacher's features, and what leaving a stage out gives."""

import pytest
import torch
from torch import nn

from tocsr.models.stages import Port, Stage
from tocsr.train.features import (
    LeftOut,
    feature_distillation_losses,
    stage_losses,
    stage_outputs,
)

FEATURES = [torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]


@pytest.fixture(scope="module")
def teacher(networks):
    return networks.teacher


@pytest.fixture(scope="module")
def record(teacher):
    torch.manual_seed(0)
    values = {}
    with torch.no_grad():
        teacher(torch.randn(2, 16, 8, 8), torch.tensor([10, 900]), record=values)
    return values


def test_the_teachers_features_have_no_loss():
    assert feature_distillation_losses(FEATURES, FEATURES).tolist() == [0, 0]


def test_outputs_of_zeros_have_loss_1_whatever_the_teachers_scale():
    losses = feature_distillation_losses(
        [0 * f for f in FEATURES], [FEATURES[0], 100 * FEATURES[1]]
    )
    assert losses.tolist() == pytest.approx([1, 1])


def test_each_output_has_a_loss_of_its_own():
    off = [FEATURES[0], 2 * FEATURES[1]]  # the second's error has the second's own power
    assert feature_distillation_losses(off, FEATURES).tolist() == pytest.approx([0, 1])


def test_the_teachers_own_block_on_its_own_input_has_no_loss_on_any_output(teacher, record):
    for stage in teacher.stage_table:
        losses = stage_losses(teacher.stages[stage.name], stage, record)
        assert losses.tolist() == [0] * len(stage.outputs)


class FirstSkipDoubled(nn.Module):
    """The teacher's block, but for its first output."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *arguments):
        skip, *others = self.block(*arguments)
        return [2 * skip, *others]


def test_the_loss_covers_the_skips(teacher, record):
    stage = teacher.stage_table[0]
    losses = stage_losses(FirstSkipDoubled(teacher.stages[stage.name]), stage, record)
    assert losses.tolist() == pytest.approx([1, 0, 0])


def test_a_stage_left_out_keeps_the_shape_of_every_output(teacher, record):
    for stage in teacher.stage_table:
        outputs = stage_outputs(LeftOut(stage), stage, record)
        assert [o.shape for o in outputs] == [record[port.name].shape for port in stage.outputs]


def left_out(source: Port, *outputs: Port) -> list[torch.Tensor]:
    x = torch.arange(1.0, 5).view(1, 1, 2, 2).expand(1, source.channels, 2, 2)
    return LeftOut(Stage("S", "down", (source,), outputs, 1, True))([x], torch.zeros(1, 4), None)


def test_a_stage_left_out_passes_its_features_on_and_averages_or_repeats_pixels():
    same, half, twice = left_out(*(Port("p", 1, stride) for stride in (2, 2, 4, 1)))
    assert same.flatten().tolist() == [1, 2, 3, 4]
    assert half.flatten().tolist() == [2.5]
    assert twice[0, 0, 0].tolist() == [1, 1, 2, 2]


def test_a_stage_left_out_cuts_channels_or_fills_them_with_zeros():
    fewer, more = left_out(Port("p", 2, 1), Port("p", 1, 1), Port("p", 3, 1))
    assert fewer.shape[1] == 1
    assert more[0, :, 0, 0].tolist() == [1, 1, 0]
