"""What surrogates are trained on, at micro size, and their training."""

from pathlib import Path

import pytest
import torch
from micro import MICRO, micro_config

from tocsr.files import write_json
from tocsr.models.folders import base_unet, base_vae
from tocsr.runs import silent
from tocsr.train.calibrate import Networks, Task, train_surrogates


@pytest.fixture(scope="session")
def expanded(tmp_path_factory):
    """The `--runs` folder of an expand-unet that has learned nothing."""
    folder = tmp_path_factory.mktemp("expanded") / "expand-unet"
    torch.manual_seed(0)
    base_unet(str(MICRO), latent_channels=16).save_pretrained(folder / "unet")
    base_vae(str(MICRO), "vae_teacher").save_pretrained(folder / "vae")
    write_json(folder / "result.json", {})
    return folder.parent


@pytest.fixture(scope="session")
def networks(expanded):
    """Its teacher and autoencoder."""
    return Networks.load(expanded, "cpu", 1)


@pytest.fixture
def train(networks, tmp_path):
    """Trains surrogates together in a run folder by name; the facts of each."""

    def train(folder, names, *options, report=silent):
        config = micro_config("calibrate", tmp_path / folder, *options)
        return train_surrogates(networks, report, Task(config, tuple(names), "", Path.cwd()))

    return train
