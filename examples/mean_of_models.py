"""The mean of several finished models' weights, some of the way from the model they began as.

    python examples/mean_of_models.py OUT --start MODEL --models MODEL MODEL ... [--share 0.9]

All are folders that `distill` wrote, of one architecture. Sharpened again and again from one
faithful model, each result has patterns of its own; what they share is sharpness, and that is what
their mean keeps (model soups, Wortsman et al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from tocsr.models.reach import measured_halo
from tocsr.models.sr import OneStepGenerator


@torch.no_grad()
def mean_of_models(
    start: OneStepGenerator, models: list[OneStepGenerator], share: float
) -> OneStepGenerator:
    """`start`, every weight moved by `share` of the way to the mean of the models'."""
    for weight, *others in zip(
        start.parameters(), *(model.parameters() for model in models), strict=True
    ):
        weight.lerp_(torch.stack(others).mean(dim=0), share)
    if start.facts.local:
        start.facts = replace(start.facts, halo=measured_halo(start))
    return start


def main(argv: list[str] | None = None) -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args(argv)
    start, *models = (
        OneStepGenerator.from_pretrained(folder).float()
        for folder in (options.start, *options.models)
    )
    mean_of_models(start, models, options.share).save_pretrained(options.out)


if __name__ == "__main__":
    main()
