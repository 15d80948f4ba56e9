"""What a search has observed, on disk: one line per evaluation, only ever added to.

```
{"candidate": {"E1": "teacher", ...}, "params": 687472, "macs_g": 1.09, "gap": 0.00028,
 "relative_gap": 0.00044, "num_samples": 32}
```

One process writes. A line that a kill cut short is left out and cut off by the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.errors import TocsrError
from tocsr.files import append_json_line, read_json_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tocsr.search.objectives import Library
    from tocsr.search.prefixes import Measured
    from tocsr.search.space import Candidate


class Ledger:
    """The ledger of one search.

    Args:
        path: Its file; need not be there yet.
        library: Stage -> variants; a candidate is their positions in it.

    Raises:
        TocsrError: The ledger is of another library.
    """

    def __init__(self, path: Path, library: Library) -> None:
        self.path, self.library = path, library
        self.records: dict[Candidate, dict[str, Any]] = {}
        for record in read_json_lines(path):
            choice = record["candidate"]
            if any(choice.get(stage) not in names for stage, names in library.items()):
                raise TocsrError(
                    f"{path} was made with other surrogates than calibrate now has",
                    "remove the search folder, or name another --runs folder",
                )
            candidate = tuple(names.index(choice[stage]) for stage, names in library.items())
            self.records[candidate] = record

    def named(self, candidate: Candidate) -> dict[str, str]:
        """A candidate's choices by name, stage -> variant."""
        return {
            stage: names[choice]
            for (stage, names), choice in zip(self.library.items(), candidate, strict=True)
        }

    def add_(
        self,
        candidate: Candidate,
        costs: Mapping[str, float],
        measured: Measured,
        teacher_power: float,
    ) -> None:
        """Adds one evaluation, which is on disk when this returns.

        Args:
            candidate: What was evaluated.
            costs: What it costs, by name.
            measured: Its gap.
            teacher_power: The unit of the relative gap.
        """
        record = {
            "candidate": self.named(candidate),
            **costs,
            "gap": measured.gap,
            "relative_gap": measured.gap / teacher_power,
            "num_samples": measured.num_samples,
        }
        append_json_line(self.path, record)
        self.records[candidate] = record

    @property
    def gaps(self) -> dict[Candidate, float]:
        """The gap of every candidate observed, in the order of observing."""
        return {candidate: record["gap"] for candidate, record in self.records.items()}
