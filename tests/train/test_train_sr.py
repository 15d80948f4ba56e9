"""The multi-step super-resolver: what its U-Net can be told to predict."""

import pytest
import torch
from micro import micro_config

from tocsr.models.folders import load_unet
from tocsr.train import train_sr


@pytest.fixture
def trained(expanded, tmp_path):
    """The U-Net of a train-sr of few steps that predicts this."""

    def trained(prediction, *options):
        runs = tmp_path / "-".join([prediction, *options])
        runs.mkdir()
        for verb in ("expand-unet", "finetune"):  # as if fine-tuned from where it stands
            (runs / verb).symlink_to(expanded / "expand-unet", target_is_directory=True)
        train_sr.run(micro_config("train-sr", runs, f"--prediction={prediction}", *options))
        return load_unet(runs / "train-sr" / "unet")

    return trained


@pytest.mark.parametrize("prediction", ["noise", "velocity", "clean"])
def test_the_unet_predicts_what_it_is_told_to(trained, prediction):
    unet = trained(prediction)
    assert unet.config.prediction == prediction
    assert all(p.isfinite().all() for p in unet.parameters())


def test_a_backbone_that_predicts_the_noise_keeps_its_head_for_it(trained):
    as_told, as_it_is = trained("noise"), trained("backbone")
    assert as_it_is.config.prediction == "noise"
    both = zip(as_told.parameters(), as_it_is.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_the_condition_starts_as_it_is_told_to(trained):
    frozen = "--optim.lr=1e-12"
    zero, copied = (
        trained("clean", frozen, f"--condition_start={start}").conv_in.weight
        for start in ("zero", "copied")
    )
    assert zero[:, 16:].abs().max() < 1e-9
    torch.testing.assert_close(copied[:, 16:], zero[:, :16])
    torch.testing.assert_close(copied[:, :16], 0.1 * zero[:, :16])
