import json
import subprocess
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tocsr.errors import ExitCode, TocsrError
from tocsr.models.compact import (
    CompactUNet,
    assembled,
    from_base_unet,
    num_params,
    rebuilt,
)
from tocsr.models.cost import model_params
from tocsr.models.folders import WEIGHTS, load_surrogates, load_unet
from tocsr.models.library import surrogate_library
from tocsr.models.sr_starts import with_condition
from tocsr.models.stages import unet_stages
from tocsr.models.surrogate_starts import init_from_teacher_
from tocsr.models.surrogates import SurrogateStage, computing_blocks, is_local
from tocsr.models.variants import LIBRARY, TEACHER, find_variant

BASE = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 12, 16, 16],
    "layers_per_block": 2,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "up_block_types": [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ],
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}
STAGES = unet_stages(BASE)
ROWS = [(stage, variant) for stage in STAGES for variant in LIBRARY[stage.kind]]
ROW_NAMES = [f"{stage.name}-{variant.name}" for stage, variant in ROWS]
SAMPLE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
TIMESTEP = torch.tensor([3, 700])


@pytest.fixture(scope="module")
def base() -> UNet2DConditionModel:
    torch.manual_seed(0)
    # frozen, as the staged one: with gradients attention takes a kernel that rounds otherwise
    return UNet2DConditionModel(**BASE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def teacher(base) -> CompactUNet:
    unet = from_base_unet(base, num_context_tokens=3).eval()
    torch.nn.init.normal_(unet.context)
    return unet.requires_grad_(False)


@pytest.fixture(scope="module")
def record(teacher) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    teacher(SAMPLE, TIMESTEP, record=values)
    return values


@pytest.fixture(scope="module")
def pixel_teacher(teacher) -> CompactUNet:
    return rebuilt(teacher, norm="pixel").eval().requires_grad_(False)


def test_the_stages_are_the_seven_of_sd():
    assert [stage.name for stage in STAGES] == ["E1", "E2", "E3", "B", "D3", "D2", "D1"]


def test_the_staged_network_equals_the_stock_one_bitwise(base, teacher):
    context = teacher.context.expand(2, -1, -1)
    stock = base(SAMPLE, TIMESTEP, encoder_hidden_states=context).sample
    assert torch.equal(teacher(SAMPLE, TIMESTEP), stock)


def test_the_all_teacher_candidate_equals_the_teacher_bitwise(teacher):
    choice = {stage.name: TEACHER for stage in STAGES}
    candidate = assembled(teacher, choice, {})
    assert torch.equal(candidate(SAMPLE, TIMESTEP), teacher(SAMPLE, TIMESTEP))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_teachers_tensors_have_the_declared_shapes(stage, record):
    for port in (*stage.inputs, *stage.outputs):
        assert tuple(record[port.name].shape) == port.shape(2, 16)


@pytest.mark.parametrize(("stage", "variant"), ROWS, ids=ROW_NAMES)
def test_every_variant_keeps_the_stages_outputs(stage, variant, teacher, record):
    block = SurrogateStage(stage, variant, teacher.facts)
    inputs = [record[port.name] for port in stage.inputs]
    outputs = block(inputs, record["time_embedding"], record["context"])
    assert [tuple(o.shape) for o in outputs] == [port.shape(2, 16) for port in stage.outputs]


@pytest.mark.parametrize(("stage", "variant"), ROWS, ids=ROW_NAMES)
def test_every_parameter_and_every_input_of_every_variant_gets_a_gradient(
    stage, variant, teacher, record
):
    torch.manual_seed(0)
    block = SurrogateStage(stage, variant, teacher.facts)
    for parameter in block.parameters():  # what starts at zero hides what lies before it
        torch.nn.init.normal_(parameter, std=0.3)
    inputs = [record[port.name].clone().requires_grad_() for port in stage.inputs]
    outputs = block(inputs, record["time_embedding"], record["context"])
    sum((o * torch.randn_like(o)).sum() for o in outputs).backward()
    without = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias shifts all scores of a query alike, which softmax does not see
    assert [name for name in without if not name.endswith("to_k.bias")] == []
    assert all(x.grad is not None and x.grad.any() for x in inputs)


def test_a_full_variant_without_attention_starts_as_a_teacher_without_attention():
    plain = {
        **BASE,
        "down_block_types": ["DownBlock2D"] * 4,
        "up_block_types": ["UpBlock2D"] * 4,
        "mid_block_type": None,
    }
    torch.manual_seed(0)
    unet = CompactUNet(base={**plain, "mid_block_type": "UNetMidBlock2D"})
    values: dict[str, torch.Tensor] = {}
    unet(SAMPLE, TIMESTEP, record=values)
    for stage in STAGES:
        if stage.kind == "bottleneck":  # its variants leave the teacher's last level out
            continue
        rows = {variant.num_blocks: variant for variant in LIBRARY[stage.kind][:1]}
        block = SurrogateStage(stage, rows[stage.num_blocks], unet.facts)
        init_from_teacher_(block, unet.stages[stage.name])
        inputs = [values[port.name] for port in stage.inputs]
        outputs = block(inputs, values["time_embedding"], None)
        for port, output in zip(stage.outputs, outputs, strict=True):
            assert torch.equal(output, values[port.name]), port.name


@pytest.mark.parametrize(
    ("num_blocks", "total", "expected"),
    [(0, 3, []), (1, 2, [0]), (1, 3, [0]), (2, 3, [0, 2]), (3, 3, [0, 1, 2]), (3, 2, [0, 1])],
)
def test_computing_blocks_are_spread_as_in_bk_sdm(num_blocks, total, expected):
    assert computing_blocks(num_blocks, total) == expected


def test_variant_names_are_unique():
    for rows in LIBRARY.values():
        assert len({variant.name for variant in rows}) == len(rows)


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(TocsrError, match="did you mean 'r1-full-full'"):
        find_variant("down", "r1-full-ful")


def test_every_row_of_the_library_is_smaller_than_the_teachers_block(teacher):
    for stage in STAGES:
        own = num_params(teacher.stages[stage.name])
        for name in surrogate_library(teacher)[stage.name][1:]:
            block = SurrogateStage(stage, find_variant(stage.kind, name), teacher.facts)
            assert num_params(block) < own


def test_a_local_library_has_only_rows_with_a_bounded_receptive_field(pixel_teacher):
    for stage in STAGES:
        for name in surrogate_library(pixel_teacher, local_only=True)[stage.name]:
            assert name != TEACHER  # here every stage of the teacher attends, the bottleneck too
            row = find_variant(stage.kind, name)
            assert is_local(SurrogateStage(stage, row, pixel_teacher.facts))


PLAIN = {stage.name: "r1-full-full" for stage in STAGES}
WINDOWED = PLAIN | {"E1": "r1-full-self16-full", "E2": "r1-full-self16-full"}
WINDOWED |= {"D3": "r1-full-self16-separable", "D1": "r1-full-self16-separable"}
WIDE = torch.randn(1, 4, 16, 512, generator=torch.Generator().manual_seed(3))


def scrambled(unet: CompactUNet) -> CompactUNet:
    """Every part has an effect: what starts at zero does not."""
    torch.manual_seed(0)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return unet.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("variants", "local_teacher", "local"),
    [
        (PLAIN, True, True),
        (PLAIN, False, False),
        (WINDOWED, True, True),
        (WINDOWED, False, False),
        (PLAIN | {"E1": "r1-full-self-full"}, True, False),
    ],
    ids=["pixel", "group", "windows, pixel", "windows, group", "attention, pixel"],
)
def test_locality_is_what_a_distant_pixel_shows(
    variants, local_teacher, local, teacher, pixel_teacher
):
    unet = scrambled(rebuilt(pixel_teacher if local_teacher else teacher, variants=variants))
    other = WIDE.clone()
    other[:, 0, :, 500:] += 1
    same = torch.equal(unet(WIDE, 10)[..., :16], unet(other, 10)[..., :16])
    assert unet.is_local == same == local


def test_a_crop_that_begins_at_the_size_multiple_is_computed_as_in_the_whole(pixel_teacher):
    unet = scrambled(rebuilt(pixel_teacher, variants=WINDOWED))
    assert unet.size_multiple == 16
    assert rebuilt(pixel_teacher, variants=PLAIN).size_multiple == 8
    whole = unet(WIDE, 10)[..., 240:272]  # far from both ends of both crops
    for start, alike in ((64, True), (72, False)):
        part = unet(WIDE[..., start : start + 384], 10)[..., 240 - start : 272 - start]
        # convolutions of other widths may sum in another order
        assert torch.allclose(part, whole, rtol=0, atol=1e-4) == alike


def candidate_with_surrogates(teacher) -> tuple[CompactUNet, dict]:
    torch.manual_seed(1)
    rows = ["r2-full-inner2-full", "r1-full-self16-full", "r1-full-full-pixel"]
    rows += ["r1-full-inner4-separable", "r1-full-self16-separable"]
    choice = dict(zip((stage.name for stage in STAGES[:5]), rows, strict=True))
    surrogates = {
        f"{stage.name}/{choice[stage.name]}": SurrogateStage(
            stage, find_variant(stage.kind, choice[stage.name]), teacher.facts
        )
        for stage in STAGES[:5]
    }
    return assembled(teacher, choice, surrogates).eval(), surrogates


def test_assembly_uses_each_calibrated_block_and_the_teacher_elsewhere(teacher):
    unet, surrogates = candidate_with_surrogates(teacher)
    assert unet.stages["B"] is surrogates[f"B/{unet.variants['B']}"]
    assert unet.stages["D1"] is teacher.stages["D1"]


def test_the_size_of_a_candidate_is_the_sum_over_its_stages(teacher):
    unet, surrogates = candidate_with_surrogates(teacher)
    change = sum(num_params(block) for block in surrogates.values()) - sum(
        num_params(teacher.stages[name.split("/")[0]]) for name in surrogates
    )
    assert model_params(unet) == model_params(teacher) + change


LOAD_AND_COMPARE = """
import sys
import torch
from safetensors.torch import load_file
from tocsr.models.compact import CompactUNet

torch.set_num_threads(1)
seen = load_file(sys.argv[1] + "/seen.safetensors")
unet = CompactUNet.from_pretrained(sys.argv[1] + "/unet").requires_grad_(False)
result = unet(seen["sample"].clone(), torch.tensor([3, 700]))
sys.exit(0 if torch.equal(result, seen["result"]) else 1)
"""


def test_a_saved_compact_model_loads_bitwise_equal_in_a_fresh_process(teacher, tmp_path):
    unet, _ = candidate_with_surrogates(teacher)
    unet.requires_grad_(False)  # here and there: PyTorch's kernels differ with what needs gradients
    unet.save_pretrained(tmp_path / "unet")
    torch.set_num_threads(1)
    save_file({"sample": SAMPLE, "result": unet(SAMPLE, TIMESTEP)}, tmp_path / "seen.safetensors")
    command = [sys.executable, "-c", LOAD_AND_COMPARE, tmp_path]
    assert subprocess.run(command, check=False).returncode == 0


def test_the_saved_config_holds_the_decision_vector(teacher, tmp_path):
    unet, _ = candidate_with_surrogates(teacher)
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {**dict.fromkeys(unet.variants, TEACHER), **config["variants"]} == unet.variants


def test_a_stock_unet_folder_loads_as_a_staged_one(base, tmp_path):
    base.save_pretrained(tmp_path)
    context = torch.ones(2, 3, 6)
    stock = base(SAMPLE, TIMESTEP, encoder_hidden_states=context).sample
    assert torch.equal(load_unet(tmp_path)(SAMPLE, TIMESTEP, context), stock)


def test_a_missing_weight_file_is_named(teacher, tmp_path):
    teacher.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(TocsrError, match=f"{tmp_path} has no {WEIGHTS}") as caught:
        load_unet(tmp_path)
    assert caught.value.code == ExitCode.MODEL


def test_a_truncated_weight_file_is_a_clear_error(teacher, tmp_path):
    teacher.save_pretrained(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TocsrError, match="does not hold a whole CompactUNet") as caught:
        load_unet(tmp_path)
    assert caught.value.code == ExitCode.MODEL


def test_surrogates_come_back_bitwise(teacher, tmp_path):
    _, surrogates = candidate_with_surrogates(teacher)
    name, block = next(iter(surrogates.items()))
    (tmp_path / name).parent.mkdir()
    save_file(block.state_dict(), tmp_path / f"{name}.safetensors")
    loaded = load_surrogates(teacher, tmp_path, [name])[name].state_dict()
    assert all(
        torch.equal(loaded[k], v) for k, v in load_file(tmp_path / f"{name}.safetensors").items()
    )


def test_conditioning_starts_as_the_backbone_whatever_the_condition(teacher):
    unet = with_condition(teacher).eval()
    lr = 9 * torch.randn_like(SAMPLE)
    joined = unet(torch.cat([SAMPLE, lr], dim=1), TIMESTEP)
    # not bitwise: a convolution over more channels may sum in another order
    torch.testing.assert_close(joined, teacher(SAMPLE, TIMESTEP), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("adapter", "params"),
    # by hand: each convolution in x 9 x out + out, instead of 4 -> 320 and 320 -> 4
    [("v1", 859_556_116), ("v2", 859_590_096), ("v3", 859_523_880)],
)
def test_widening_sd_adds_the_parameters_that_the_shapes_say(adapter, params):
    from tocsr.models.folders import base_unet

    with torch.device("meta"):
        assert model_params(base_unet("paper")) == 859_520_964
        assert model_params(base_unet("paper", latent_channels=16, adapter=adapter)) == params


def test_widening_copies_everything_but_the_ends_bitwise(teacher):
    before, after = teacher.state_dict(), rebuilt(teacher, latent_channels=16).state_dict()
    changed = [
        name
        for name in after
        if after[name].shape != before[name].shape or not torch.equal(after[name], before[name])
    ]
    # conv_in keeps its bias: its shape is the same
    assert sorted(changed) == ["conv_in.weight", "conv_out.bias", "conv_out.weight"]
