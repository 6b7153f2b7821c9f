"""TensorBoard, W&B and MLflow, through accelerate's trackers; none of them is needed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from iccld_cli.config import Config
from iccld_cli.errors import IccldError


def check_trackers(config: Config) -> list[str]:
    """Names of the configured trackers.

    Raises:
        IccldError: One of them is not installed.
    """
    for name in config.run.trackers:
        if importlib.util.find_spec(name) is None:
            raise IccldError(f"run.trackers names {name}, which is not installed", f'pip install "iccld[{name}]"')
    return list(config.run.trackers)


class Trackers:
    """Sends lines of the log to the configured trackers; every rank may hold one, rank 0's speaks."""

    def __init__(self, accelerator: Accelerator, config: Config, run: Path, stage: str) -> None:
        """Open them.

        Args:
            accelerator: Built with `log_with` and `project_dir`.
            config: Its values are noted as the run's parameters.
            run: The run folder; its name names the run.
            stage: Name of the stage.
        """
        self._accelerator = accelerator if config.run.trackers else None
        self._stage = stage
        if self._accelerator is not None:
            flat = _flat(config.model_dump(mode="json"))
            options: dict[str, Any] = {"wandb": {"name": f"{run.name}-{stage}"}}
            accelerator.init_trackers(f"iccld-{stage}", config=flat, init_kwargs=options)

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Send the numbers of a line."""
        if self._accelerator is not None:
            numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
            self._accelerator.log({f"{self._stage}/{k}": v for k, v in numbers.items()}, step=step)

    def close(self) -> None:
        """Flush and close them."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return rows
