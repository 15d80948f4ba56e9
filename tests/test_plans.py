import re

import pytest
from micro import micro_config

from tocsr.options import read_config
from tocsr.plans import plan, plan_phase

KEPT = {
    "pretrain": "unet",
    "expand-vae": "vae encoder",
    "expand-unet": "unet",
    "train-sr": "unet",
    "distill": "unet",
}


def training(verb, runs, *options):
    rows = plan(verb, micro_config(verb, runs, *options))["trainings"]
    return rows["optim" if "optim" in rows else "unet"]


def gib(cell):
    return float(re.match(r"[\d.]+", cell)[0])


@pytest.mark.parametrize(("verb", "part"), KEPT.items())
def test_a_phase_says_what_its_step_keeps(verb, part, tmp_path):
    rows = training(verb, tmp_path)
    assert f"{part} " in rows["activations kept"]
    assert rows["micro-batch"].endswith("gradient checkpointing off")


def test_the_plan_counts_with_the_settings(tmp_path):
    options = ("--data.crop=512", "--optim.batch_size=64", "--optim.precision=bf16")
    plain = training("expand-vae", tmp_path, *options)
    again = training("expand-vae", tmp_path, *options, "--optim.gradient_checkpointing=true")
    split = training("expand-vae", tmp_path, *options, "--optim.accumulation=4")
    assert plain["micro-batch"] == "64 x 3 x 512 x 512, bf16, gradient checkpointing off"
    assert again["micro-batch"] == "64 x 3 x 512 x 512, bf16, gradient checkpointing on"
    assert split["micro-batch"] == "16 x 3 x 512 x 512, bf16, gradient checkpointing off"
    kept = gib(plain["activations kept"])
    assert gib(again["activations kept"]) < 0.7 * kept
    assert gib(split["activations kept"]) == pytest.approx(kept / 4, abs=0.01)  # two digits
    assert gib(plain["images"]) == gib(split["images"]) == pytest.approx(64 * 3 / 2**10, abs=0.006)
    assert gib(plain["most at once"]) > kept


def test_a_student_of_other_channels_is_planned_with_its_map(tmp_path):
    result = plan("expand-vae", micro_config("expand-vae", tmp_path, "--latent_channels=8"))
    # 8 x 16 weights and 16 biases, at each of 64 x 64 places
    assert result["networks"]["latent_map"] == "144 parameters, 0.0 GMACs at 512 x 512"
    assert "latent_map " in result["trainings"]["optim"]["activations kept"]


def test_a_plan_without_its_step_states_the_copies_of_the_weights(tmp_path):
    config = micro_config("expand-vae", tmp_path)
    assert list(plan_phase(config, step=False)["trainings"]["optim"]) == ["steps", "memory"]


def test_the_networks_of_a_phase_are_summed(tmp_path):
    rows = plan_phase(micro_config("expand-unet", tmp_path), step=False)["networks"]
    params = {name: int(row.split()[0].replace(",", "")) for name, row in rows.items()}
    assert list(params) == ["unet", "vae", "vae_teacher", "in sum"]
    assert params.pop("in sum") == sum(params.values())


def test_a_frozen_pass_is_told_apart_where_there_is_one(tmp_path):
    assert training("expand-vae", tmp_path)["without gradients"].count("vae_teacher encoder") == 1
    assert (
        "without gradients"
        not in plan("pretrain", micro_config("pretrain", tmp_path))["trainings"]["vae"]
    )


def test_a_search_is_told_of_architectures_of_the_papers_size(tmp_path):
    config = read_config("search", ["--preset=paper", f"--runs={tmp_path}"])[0]
    rows = plan("search", config)["architectures at 512 x 512"]
    counted = {
        name: re.match(r"([\d,]+) parameters, ([\d.]+) GMACs: E1 ", row)
        for name, row in rows.items()
        if name != "number"
    }
    fitting = [
        name
        for name, match in counted.items()
        if int(match[1].replace(",", "")) <= 130_000_000 and float(match[2]) <= 143
    ]
    assert "nearest to 130,000,000 parameters" in fitting
    assert "fewest GMACs with 95% of them or more" in fitting
    assert int(rows["number"].replace(",", "")) > 100_000


def test_a_calibration_says_how_many_surrogates_it_trains(tmp_path):
    config = micro_config("calibrate", tmp_path)
    result = plan("calibrate", config)
    names = [name for row in result["library"].values() for name in row.split(", ")]
    num = sum(not name.startswith("teacher ") for name in names)
    assert result["surrogates"]["number"].startswith(f"{num}, ")


@pytest.mark.parametrize("group_params", [0, 100_000])
def test_surrogates_that_train_in_groups_take_less_memory_at_once(group_params, tmp_path):
    config = micro_config("calibrate", tmp_path, f"--group_params={group_params}")
    rows = plan("calibrate", config)["surrogates"]
    everything = int(rows["number"].split()[1].replace(",", ""))
    assert everything > 100_000
    together = f"{16 * (group_params or everything) / 2**20:.1f} MiB"
    assert rows["memory"].startswith(f"at most {together} of weights, moments and averages")
