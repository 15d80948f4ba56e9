"""What a dry run says of distillation."""

import re

import pytest
from micro import micro_config
from safetensors.torch import save_file

from tocsr.models.perceptual import ShiftTolerantLPIPS
from tocsr.plans import plan_phase


def rows(runs, *options):
    return plan_phase(micro_config("distill", runs, *options))["trainings"]["optim"]


def weights(row):
    return dict(re.findall(r"(\w+) ([\d.]+ GiB)", row))


def test_cached_targets_are_told_by_number_and_size(tmp_path):
    told = rows(tmp_path, "--num_targets=65536")["teacher's results"]
    # 16 channels of 8 x 8, two bytes each
    assert told == f"65,536 kept, {65536 * 16 * 64 * 2 / 2**30:.2f} GiB on disk and in memory"


def test_a_teacher_that_samples_with_every_batch_is_held_and_called(tmp_path):
    told = rows(tmp_path, "--targets=on-the-fly", "--num_denoise_steps=5")
    assert told["teacher's results"] == "5 calls of the teacher with every batch, nothing on disk"
    assert "sr_teacher" in weights(told["weights"])
    assert "sr_teacher" in told["without gradients"]


@pytest.mark.parametrize("perceptual", ["encoder", "file"])
def test_the_networks_of_extra_losses_are_counted(tmp_path, perceptual):
    if perceptual == "file":
        metric = ShiftTolerantLPIPS("alex")
        names = {f"heads.{i}": f"lin{i}.model.1.weight" for i in range(5)}
        state = {names.get(name, name): tensor for name, tensor in metric.state_dict().items()}
        perceptual = str(tmp_path / "alex.safetensors")
        save_file(state, perceptual)
    options = ("--perceptual_weight=1", f"--perceptual={perceptual}", "--adversarial_weight=1")
    told = rows(tmp_path, *options, "--optim.gradient_checkpointing=true")
    held = weights(told["weights"])
    assert ("perceptual" in held) == (perceptual != "encoder")
    assert "discriminator" in held
    kept = told["activations kept"]
    assert "discriminator" in kept
    assert ("vae encoder" in kept) == (perceptual == "encoder")


def test_a_sharpened_student_has_two_trainings_and_only_the_second_a_discriminator(tmp_path):
    options = ("--sharpen=true", "--adversarial_weight=0.1", "--sharpen_optim.batch_size=4")
    trainings = plan_phase(micro_config("distill", tmp_path, *options))["trainings"]
    assert trainings.keys() == {"optim", "sharpen_optim"}
    has_judge = ["discriminator" in row["weights"] for row in trainings.values()]
    assert has_judge == [False, True]
