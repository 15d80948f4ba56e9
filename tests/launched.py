"""What the tests of several processes launch; dies in the midst of the last training.

    torchrun --nproc_per_node 2 launched.py RUNS

RUNS holds, in each of `recipe`, `split`, `odd` and `killed`, a micro recipe up to `expand-vae`.
"""

import os
import sys
from pathlib import Path

from micro import micro_config

from tocsr import recipe
from tocsr.errors import TocsrError
from tocsr.runs import Run, silent
from tocsr.train import expand_unet


class Killed(BaseException):
    pass


def refuse(config, said: Path) -> None:
    """Runs what must be refused; every process writes what it was told."""
    try:
        expand_unet.run(config)
    except TocsrError as error:
        said.with_suffix(f".{os.environ['RANK']}").write_text(str(error))


def main() -> None:
    runs = Path(sys.argv[1])
    recipe.run(micro_config("recipe", runs / "recipe"), silent)
    expand_unet.run(micro_config("expand-unet", runs / "split", "--optim.accumulation=2"))

    refuse(micro_config("expand-unet", runs / "odd", "--optim.batch_size=3"), runs / "odd-batch")
    killed = micro_config("expand-unet", runs / "killed")
    with Run.open(killed):
        refuse(killed, runs / "locked")

    def kill(label, done, total, figures):
        if done == 3:
            (runs / "dies").touch()
            raise Killed

    expand_unet.run(killed, kill)


if __name__ == "__main__":
    main()
