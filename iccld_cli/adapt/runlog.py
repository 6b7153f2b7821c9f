"""The log of a run: one JSON object a line, and nothing lost or doubled by a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iccld_cli.files import write_text

LOG_NAME = "log.jsonl"


class RunLog:
    """`log.jsonl` of a run folder; each line holds at least `stage`, `step` and `loss`."""

    def __init__(self, run: Path, stage: str, start: int) -> None:
        """Open the log for appending.

        Lines of this stage beyond the step that the run starts from are dropped: they will be written again.

        Args:
            run: The run folder.
            stage: Name of the stage.
            start: Steps already done.
        """
        self.path = run / LOG_NAME
        self.stage = stage
        if self.path.is_file():
            kept = []
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed run may be cut
                if row.get("stage") != stage or row["step"] <= start:
                    kept.append(line + "\n")
            write_text(self.path, "".join(kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append a line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, **row}) + "\n")
