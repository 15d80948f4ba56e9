from functools import partial

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from tocsr.models.attention import SelfAttention
from tocsr.models.compact import CompactUNet
from tocsr.models.layers import PixelNorm, replace_group_norms_
from tocsr.models.library import surrogate_library
from tocsr.models.stages import Stage
from tocsr.models.surrogate_starts import (
    counterparts,
    important_channels,
    init_from_teacher_,
    start_conv_,
    start_residual_,
    start_self_attention_,
)
from tocsr.models.surrogates import Resampler, ResidualBlock, SurrogateStage
from tocsr.models.variants import TEACHER, Variant, find_variant

BASE = {
    "sample_size": 16,
    "block_out_channels": [8, 12, 16, 16],
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}
FACTS = {**BASE, "norm": "group", "norm_eps": 1e-5}
TEMB = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
# products of the same weights in another order, in float32
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def scrambled(module: nn.Module) -> nn.Module:
    """Weights and biases that are all different; frozen."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def teacher() -> CompactUNet:
    return scrambled(CompactUNet(base=BASE, num_context_tokens=3))


def surrogate(teacher: CompactUNet, stage: str, name: str) -> SurrogateStage:
    torch.manual_seed(2)
    (found,) = [s for s in teacher.stage_table if s.name == stage]
    block = SurrogateStage(found, find_variant(found.kind, name), teacher.facts)
    return block.eval().requires_grad_(False)


def resnet(in_channels: int = 8, out_channels: int = 12) -> ResnetBlock2D:
    block = ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=32,
        groups=4,
        eps=1e-5,
    )
    return scrambled(block)


def started(source: ResnetBlock2D, facts: dict = FACTS, **fields: object) -> ResidualBlock:
    variant = Variant(num_blocks=1, **fields)
    block = ResidualBlock(source.in_channels, source.out_channels, variant, facts)
    assert start_residual_(block.requires_grad_(False), source) > 0
    return block


def test_a_whole_residual_block_is_the_teachers_bitwise():
    source, x = resnet(), randn(2, 8, 6, 6)
    assert torch.equal(started(source)(x, TEMB), source(x, TEMB))


@pytest.mark.parametrize("norm", ["group", "pixel"])
def test_channels_that_nobody_misses_are_the_ones_left_out(norm):
    source, x = resnet(8, 16), randn(2, 8, 6, 6)
    if norm == "pixel":
        replace_group_norms_(source)
        source.requires_grad_(False)
    # of each pair of channels, which are alike so that statistics stay, the second goes nowhere
    for part in (source.conv1, source.time_emb_proj, source.norm2):
        for parameter in part.parameters():
            parameter[1::2] = parameter[::2]
    source.conv2.weight[:, 1::2] = 0
    block = started(source, {**FACTS, "norm": norm}, inner=2)
    assert block.conv1.out_channels == 8
    close(block(x, TEMB), source(x, TEMB))


def test_the_strongest_channels_of_each_group_are_kept():
    source = resnet()
    for part in (source.conv1.weight, source.norm2.weight, source.conv2.weight):
        nn.init.ones_(part)
    source.norm2.weight[:] = torch.tensor([5, 6, 9, 1, 2, 3, -8, 7, 4, 0, 1, 2])
    assert important_channels(source, 4, 4).tolist() == [2, 5, 6, 11]
    assert important_channels(source, 2, 6).tolist() == [0, 1, 2, 6, 7, 8]
    assert important_channels(source, 1, 3).tolist() == [2, 6, 7]


@pytest.mark.parametrize("factor", ["conv1", "norm2", "conv2"])
def test_what_comes_in_and_what_goes_out_both_count(factor):
    source = resnet()
    for part in (source.conv1.weight, source.norm2.weight, source.conv2.weight):
        nn.init.ones_(part)
    weight = getattr(source, factor).weight
    (weight[:, 7] if factor == "conv2" else weight[7]).mul_(2)
    assert important_channels(source, 1, 1).tolist() == [7]


def test_a_group_norm_teachers_affine_weights_go_to_a_norm_per_pixel():
    source = resnet()
    block = started(source, norm="pixel")
    for name in ("norm1", "norm2"):
        own = getattr(block, name)
        assert isinstance(own, PixelNorm)
        assert torch.equal(own.weight, getattr(source, name).weight)
        assert torch.equal(own.bias, getattr(source, name).bias)


def conv(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    variant = Variant(num_blocks=1, conv=kind)
    return ResidualBlock(in_channels, out_channels, variant, FACTS).conv1.requires_grad_(False)


def test_a_separable_teacher_is_met_by_a_separable_convolution():
    own, x = conv("separable", 8, 12), randn(2, 8, 6, 6)
    wanted = scrambled(conv("separable", 8, 12))
    weight = torch.einsum("iyx,oi->oiyx", wanted[0].weight[:, 0], wanted[1].weight[:, :, 0, 0])
    nn.init.zeros_(wanted[0].bias)  # at the border a bias before the second one is another function
    assert start_conv_(own, weight, wanted[1].bias) == sum(p.numel() for p in own.parameters())
    close(own(x), wanted(x))


def of_low_rank(teacher: nn.Sequential) -> torch.Tensor:
    first, middle, last = (part.weight for part in teacher)
    return torch.einsum("or,rsyx,si->oiyx", last[..., 0, 0], middle, first[..., 0, 0])


@pytest.mark.parametrize("in_channels", [12, 2], ids=["wide", "narrower than the middle"])
def test_a_teacher_of_low_rank_is_met_by_a_bottleneck_convolution(in_channels):
    own, x = conv("bottleneck", in_channels, 12), randn(2, in_channels, 6, 6)
    wanted = scrambled(conv("bottleneck", in_channels, 12))
    nn.init.zeros_(wanted[0].bias)
    nn.init.zeros_(wanted[1].bias)
    start_conv_(own, of_low_rank(wanted), wanted[2].bias)
    close(own(x), wanted(x))


def test_channels_beyond_the_rank_can_still_be_trained():
    own = conv("bottleneck", 2, 12).requires_grad_(True)
    with torch.no_grad():
        start_conv_(own, randn(12, 2, 3, 3), randn(12))
    own(randn(2, 2, 6, 6)).square().sum().backward()
    assert own[1].weight.grad[:, 2].any()  # what the third channel in would add


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_merged_sampler_is_the_teachers_on_what_does_not_change_from_pixel_to_pixel(up):
    full, merged = (
        Resampler(8, 12, kind, up).requires_grad_(False) for kind in ("full", "pointwise")
    )
    scrambled(full)
    start_conv_(merged.conv, full.conv.weight, full.conv.bias)
    x = randn(2, 8, 1, 1).expand(2, 8, 8, 8)
    inside = (..., slice(1, -1), slice(1, -1))  # at the border the full one sees zeros
    close(merged(x)[inside], full(x)[inside])


def test_a_convolution_of_other_widths_stays_as_constructed():
    own = conv("full", 8, 12)
    before = own.weight.clone()
    assert start_conv_(own, randn(12, 9, 3, 3), randn(12)) == 0
    assert torch.equal(own.weight, before)


def transformer() -> Transformer2DModel:
    """A teacher's transformer on a norm per pixel that is self-attention and the path around it."""
    source = Transformer2DModel(2, 4, in_channels=8, norm_num_groups=4, cross_attention_dim=6)
    replace_group_norms_(source)
    scrambled(source)
    nn.init.ones_(source.norm.weight)
    nn.init.zeros_(source.norm.bias)
    block = source.transformer_blocks[0]
    nn.init.eye_(source.proj_in.weight[:, :, 0, 0])
    for dropped in (source.proj_in.bias, source.proj_out.bias):
        nn.init.zeros_(dropped)
    for part in (block.attn2.to_out[0], block.ff.net[2]):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    # the layer norm's constant is lost for the query alone: here the query does not look at it
    constant, query = block.norm1.bias, block.attn1.to_q.weight
    query -= torch.outer(query @ constant, constant) / constant.square().sum()
    return source


def test_self_attention_starts_as_the_teachers_where_its_layer_norm_is_linear():
    source, x = transformer(), randn(2, 8, 5, 5)
    part = SelfAttention(8, FACTS, "pixel").requires_grad_(False)
    assert start_self_attention_(part, source) == sum(p.numel() for p in part.parameters())
    context = torch.zeros(2, 1, 6)
    wanted = source(x, encoder_hidden_states=context, return_dict=False)[0] - x
    around = nn.functional.conv2d(source.norm(x), source.proj_out.weight)
    # the norms' epsilons, 1e-6 and 1e-5 of the power
    torch.testing.assert_close(part(x, None) - x, wanted - around, rtol=1e-3, atol=1e-4)


def test_each_residual_block_starts_from_the_one_at_its_place(teacher):
    block, own = surrogate(teacher, "D1", "r2-full-full"), teacher.stages["D1"].blocks[0].resnets
    init_from_teacher_(block, teacher.stages["D1"])
    assert [type(part).__name__ for part in block.blocks] == [
        "ResidualBlock",
        "Shortcut",
        "ResidualBlock",
    ]
    for part, source in zip(block.blocks, own, strict=True):
        for name, parameter in part.named_parameters():
            assert torch.equal(parameter, source.get_parameter(name))


def outputs(block: nn.Module, stage: Stage) -> list[torch.Tensor]:
    inputs = [randn(*port.shape(2, 32)) for port in stage.inputs]
    return block(inputs, TEMB, randn(2, 3, 6))


@pytest.mark.parametrize("name", ["r1-full-full", "r0-full-pointwise"])
def test_a_bottleneck_starts_as_the_teachers_shortcuts_where_these_are_all(teacher, name):
    plain = CompactUNet(base=BASE, num_context_tokens=3).eval().requires_grad_(False)
    plain.load_state_dict(teacher.state_dict())
    own = plain.stages["B"]
    for part in own.modules():  # what is added to a shortcut is zero
        if isinstance(part, ResnetBlock2D):
            last = part.conv2
        elif isinstance(part, Transformer2DModel):
            last = part.proj_out
        else:
            continue
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    (stage,) = [s for s in plain.stage_table if s.name == "B"]
    sampler = own.blocks[2].upsamplers[0].conv
    if name == "r0-full-pointwise":  # exact where the sampler looks at one pixel alone
        sampler.weight[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    block = surrogate(plain, "B", name)
    init_from_teacher_(block, own)
    inside = (..., slice(1, -1), slice(1, -1))  # at the border the bias before the sampler is not
    close(outputs(block, stage)[0][inside], outputs(own, stage)[0][inside])


def test_where_the_width_changes_a_bottleneck_starts_from_the_level_below():
    wider = {**BASE, "block_out_channels": [8, 12, 16, 20]}
    unet = scrambled(CompactUNet(base=wider, num_context_tokens=3))
    block = surrogate(unet, "B", "r2-full-full")
    assert init_from_teacher_(block, unet.stages["B"]) > 0
    down, mid, _ = unet.stages["B"].blocks
    assert torch.equal(block.blocks[0].conv1.weight, down.resnets[0].conv1.weight)
    assert torch.equal(block.blocks[1].conv1.weight, mid.resnets[1].conv1.weight)


@pytest.mark.parametrize("stage", ["E1", "E3", "B", "D3", "D1"])
def test_every_row_starts_from_the_teacher_as_a_whole(teacher, stage):
    for name in surrogate_library(teacher)[stage]:
        if name == TEACHER:
            continue
        block = surrogate(teacher, stage, name)
        num = sum(p.numel() for p in block.parameters())
        assert init_from_teacher_(block, teacher.stages[stage]) == num, name


def test_what_the_teacher_lacks_stays_as_constructed():
    plain = scrambled(
        CompactUNet(base={**BASE, "down_block_types": ["DownBlock2D"] * 4}, num_context_tokens=3)
    )
    before = surrogate(plain, "E1", "r1-full-self-full")
    block = surrogate(plain, "E1", "r1-full-self-full")
    init_from_teacher_(block, plain.stages["E1"])
    for name, parameter in block.attentions.named_parameters():
        assert torch.equal(parameter, before.attentions.get_parameter(name))


def test_counterparts_name_every_part_once(teacher):
    block = surrogate(teacher, "E2", "r1-full-self-full")
    parts = [type(part).__name__ for part, _ in counterparts(block, teacher.stages["E2"])]
    assert parts == ["ResidualBlock", "Shortcut", "SelfAttention", "Resampler"]
