"""A recipe run once at micro size, which the tests of the phases look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro import micro_config


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `--runs` folder of a finished micro recipe; read it, do not write to it."""
    import torch

    from tocsr.recipe import run
    from tocsr.runs import silent

    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("micro")
    run(micro_config("recipe", runs), silent)
    return runs
