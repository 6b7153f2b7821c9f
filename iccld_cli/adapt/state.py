"""Training states: everything a run needs to go on, as safetensors and JSON.

    RUN/state/<stage>-<step>/tensors.safetensors    tensors of every module and optimizer
    RUN/state/<stage>-<step>/state.json             step, configuration, data digests, everything else

A state is written under a temporary name, flushed and renamed, and only then are older ones removed: killed at any
moment, the newest whole state still loads. Random state needs no saving, because every random number of training
is a function of (seed, step, sample).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from iccld_cli.checkpoint import tensors_digest
from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error

_NAME = re.compile(r"(?P<stage>source_only|stage1|stage2)-(?P<step>\d+)")


@dataclass(frozen=True)
class SavedState:
    """A state on disk.

    Attributes:
        path: Its folder.
        stage: Stage it belongs to.
        step: Steps done.
    """

    path: Path
    stage: str
    step: int


def list_states(run: Path) -> list[SavedState]:
    """Whole states of a run folder, oldest first."""
    found = []
    for path in (run / "state").glob("*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append(SavedState(path, match["stage"], int(match["step"])))
    return sorted(found, key=lambda s: s.step)


def save_state(
    run: Path,
    stage: str,
    step: int,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    facts: dict[str, Any],
    keep: int,
) -> Path:
    """Write a state and remove those beyond the newest `keep` of the same stage.

    Args:
        run: The run folder.
        stage: Name of the stage.
        step: Steps done.
        modules: Everything with tensors.
        optimizers: Every optimizer.
        facts: What must match on resuming, JSON-ready.
        keep: States kept.

    Raises:
        IccldError: The disk is full or not writable; older states are untouched then.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{k}": v for k, v in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{k}": v for k, v in entry.items() if isinstance(v, Tensor)}
        plain[name] = state["param_groups"]
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    record = {
        "stage": stage,
        "step": step,
        "facts": facts,
        "param_groups": plain,
        "sha256": tensors_digest(tensors),
    }
    final = run / "state" / f"{stage}-{step:08d}"
    temporary = run / "state" / f".{uuid.uuid4().hex[:8]}.part"
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError):
            error = OSError(28 if "No space" in str(error) else 5, str(error))
        raise explain_os_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in [s for s in list_states(run) if s.stage == stage][:-keep]:
        shutil.rmtree(old.path, ignore_errors=True)
    return final


def load_state(
    saved: SavedState,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    facts: dict[str, Any],
) -> int:
    """Put a state back.

    Args:
        saved: The state.
        modules: As given to `save_state`.
        optimizers: As given to `save_state`.
        facts: As given to `save_state`; what differs is refused by name.

    Returns:
        Steps done.

    Raises:
        IccldError: The state is damaged or belongs to a run with other settings.
    """
    hint = "remove that folder to fall back to an older state, or start anew in another --out"
    try:
        record = json.loads((saved.path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(saved.path / "tensors.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise IccldError(f"training state {saved.path} cannot be read ({error})", hint) from None
    if tensors_digest(tensors) != record["sha256"]:
        raise IccldError(f"training state {saved.path} is damaged: its tensors do not match their checksum", hint)
    changed = sorted(_differences(record["facts"], facts))
    if changed:
        raise IccldError(
            f"cannot resume {saved.path}: these settings differ from the run's: {', '.join(changed)}",
            "resume with the same settings, or start anew in another --out",
        )
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer/{name}/"
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, field = key[len(prefix) :].split("/", 1)
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"][name]})
    return int(record["step"])


def _differences(old: Any, new: Any, path: str = "") -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return set().union(*(_differences(old.get(k), new.get(k), f"{path}.{k}" if path else k) for k in keys))
    return set() if old == new else {path}
