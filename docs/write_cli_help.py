"""Writes docs/cli/tocsr.txt and docs/cli/<verb>.txt: what `--help` prints, 100 columns wide.

    python docs/write_cli_help.py

The defaults shown are the fields' own. `tocsr VERB --help` on a terminal shows those of the preset
and the file that are asked for.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from pathlib import Path

from tocsr.cli import main as tocsr
from tocsr.options import make_parser
from tocsr.verbs import VERBS

FOLDER = Path(__file__).parent / "cli"
COLUMNS = 100


def help_texts() -> dict[str, str]:
    """Every help text by the name of its file."""
    os.environ["COLUMNS"] = str(COLUMNS)
    with redirect_stdout(io.StringIO()) as usage:
        tocsr(["--help"])
    verbs = {f"{verb}.txt": make_parser(verb).format_help() for verb in VERBS}
    return {"tocsr.txt": usage.getvalue(), **verbs}


def main() -> None:
    """Writes them, and removes what no verb prints any more."""
    FOLDER.mkdir(exist_ok=True)
    texts = help_texts()
    for stale in {path.name for path in FOLDER.iterdir()} - texts.keys():
        (FOLDER / stale).unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
