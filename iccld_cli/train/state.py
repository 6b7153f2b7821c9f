"""Training states: everything a run needs to go on, as safetensors and JSON.

    RUN/state/<stage>-<step>/tensors.safetensors    tensors of every module and optimizer
    RUN/state/<stage>-<step>/state.json             step, configuration, data digests, everything else

A state is written under a temporary name, flushed and renamed, and only then are older ones removed: killed at any
moment, the newest whole state still loads. Random state needs no saving, because every random number of training
is a function of (seed, step, sample); nor does the sampler's position, which is the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from iccld_cli.checkpoint import tensors_digest
from iccld_cli.config import Config, with_present_names
from iccld_cli.errors import IccldError
from iccld_cli.files import explain_os_error
from iccld_cli.parallel.layout import Layout
from iccld_cli.reading import ReadError, kind_problem, read_json

_NAME = re.compile(r"(?P<stage>source_only|stage1|stage2)-(?P<step>[0-9]{1,18})")
_PART = ".part"
_OLDER = "remove that folder to fall back to an older state, or start anew in another --out"


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


@dataclass(frozen=True)
class Contents:
    """Everything stateful of a run, in one list.

    Attributes:
        modules: Networks, averages and counts with tensors, by name.
        optimizers: Every optimizer, by name; their learning rates are a function of the step.
        resume_key: What a resumed run must agree on, JSON-ready.
        extras: Everything else, JSON-ready: numbers not yet logged, the loss scaler, the best score.
        layout: Where the tensors lie.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    resume_key: dict[str, Any]
    extras: dict[str, Any]
    layout: Layout


def list_states(run: Path) -> list[SavedState]:
    """Whole states of a run folder, oldest first."""
    found = []
    for path in (run / "state").glob("*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append(SavedState(path, match["stage"], int(match["step"])))
    return sorted(found, key=lambda s: s.step)


def remove_leftovers(run: Path) -> None:
    """Remove what a killed process left half-written or half-removed."""
    for path in (run / "state").glob(f".*{_PART}"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (run, run / "overlays"):
        for path in folder.glob(f".*{_PART}*"):
            path.unlink(missing_ok=True)


def remove_older(run: Path, stage: str, keep: int) -> None:
    """Remove the states of a stage beyond its newest; a process that was killed after it wrote one may have left more.

    Args:
        run: The run folder.
        stage: Name of the stage.
        keep: States kept.
    """
    for old in [s for s in list_states(run) if s.stage == stage][:-keep]:
        _remove(run, old.path)


def save_state(run: Path, stage: str, step: int, contents: Contents, keep: int, write: bool = True) -> Path:
    """Write a state and remove those beyond the newest `keep` of the same stage; all ranks together.

    Args:
        run: The run folder.
        stage: Name of the stage.
        step: Steps done.
        contents: What to write.
        keep: States kept.
        write: Whether this rank writes; the others hand over their parts of what is cut.

    Returns:
        Its folder.

    Raises:
        IccldError: A tensor is not finite, or the disk is full or not writable; older states are untouched then.
    """
    final = run / "state" / f"{stage}-{step:08d}"
    tensors, groups = _flatten(contents, write)
    if not write:
        return final
    broken = next((k for k, v in tensors.items() if not torch.isfinite(v).all()), None)
    if broken is not None:
        raise IccldError(
            f"training broke: {broken} is not finite after step {step}, which was not saved",
            "the last good state is kept; lower optim.lr or use --precision fp32, and --resume",
        )
    record = {
        "stage": stage,
        "step": step,
        "facts": contents.resume_key,
        "extras": contents.extras,
        "param_groups": groups,
        "sha256": tensors_digest(tensors),
    }
    record["record_sha256"] = _record_digest(record)
    temporary = _part_path(run)
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
        for file in (*temporary.iterdir(), temporary):
            _flush(file)
        if final.exists():
            _remove(run, final)
        os.replace(temporary, final)
        _flush(final.parent)
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError):
            error = OSError(28 if "No space" in str(error) else 5, str(error))
        raise explain_os_error(error, final) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    remove_older(run, stage, keep)
    return final


def load_state(saved: SavedState, contents: Contents) -> tuple[int, dict[str, Any]]:
    """Put a state back.

    Args:
        saved: The state.
        contents: Where to; its `extras` are not looked at.

    Returns:
        Steps done, and the extras as saved.

    Raises:
        IccldError: The state is damaged or belongs to a run with other settings.
    """
    record = read_record(saved)
    changed = sorted(_differences(_brought_up_to_date(record["facts"], contents.resume_key), contents.resume_key))
    if changed:
        raise IccldError(
            f"cannot resume {saved.path}: what differs from the run is {', '.join(changed)}",
            "resume with the same settings and data, or start anew in another --out",
        )
    file = saved.path / "tensors.safetensors"
    if problem := kind_problem(file):
        raise IccldError(f"training state {saved.path} cannot be read ({file.name} {problem})", _OLDER)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise IccldError(f"training state {saved.path} cannot be read ({error})", _OLDER) from None
    if tensors_digest(tensors) != record["sha256"]:
        raise IccldError(f"training state {saved.path} is damaged: its tensors do not match their checksum", _OLDER)
    try:
        for name, module in contents.modules.items():
            prefix = f"module/{name}/"
            values = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            own = module.state_dict()
            part_like = contents.layout.part_like
            module.load_state_dict({k: part_like(v, own[k]) if k in own else v for k, v in values.items()})
        for name, optimizer in contents.optimizers.items():
            own_tensors = {k: v for k, v in tensors.items() if k.startswith(f"optimizer/{name}/")}
            _restore_optimizer(optimizer, own_tensors, record["param_groups"][name], contents.layout)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise IccldError(
            f"training state {saved.path} does not fit these networks ({(str(error) or repr(error)).splitlines()[0]})",
            "it was written by another version of iccld; start anew in another --out",
        ) from None
    return record["step"], record["extras"]


def read_record(saved: SavedState) -> dict[str, Any]:
    """What a state says besides its tensors, under a checksum of its own (which states of older versions lack).

    Raises:
        IccldError: It cannot be read, or it is not what was saved.
    """
    try:
        record = read_json(saved.path / "state.json", finite=False)
    except ReadError as error:
        raise IccldError(
            f"training state {saved.path} cannot be read (state.json {error.message})",
            _OLDER,
        ) from None
    problem = _record_problem(record, saved)
    if problem:
        raise IccldError(f"training state {saved.path} cannot be read ({problem})", _OLDER)
    return record


def _record_problem(record: Any, saved: SavedState) -> str | None:
    if not isinstance(record, dict):
        return "state.json holds no object"
    missing = {"step", "facts", "extras", "param_groups", "sha256"} - record.keys()
    if missing:
        return f"no {', '.join(sorted(missing))}"
    if "record_sha256" in record and record["record_sha256"] != _record_digest(record):
        return "it is damaged: state.json does not match its checksum"
    if type(record["step"]) is not int or record["step"] != saved.step:
        return f"it says step {str(record['step'])[:20]}, its folder's name step {saved.step}"
    if record.get("stage", saved.stage) != saved.stage:
        return f"it says stage {str(record['stage'])[:20]}, its folder's name {saved.stage}"
    wrong = [key for key in ("facts", "extras", "param_groups") if not isinstance(record[key], dict)]
    return f"{wrong[0]} is no object" if wrong else None


def _record_digest(record: dict[str, Any]) -> str:
    """sha256 of everything but itself, in a form that reading and writing do not change."""
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != "record_sha256"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _flatten(contents: Contents, keep: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for name, module in contents.modules.items():
        tensors |= {f"module/{name}/{k}": v for k, v in module.state_dict().items()}
    for name, optimizer in contents.optimizers.items():
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{k}": v for k, v in entry.items() if isinstance(v, Tensor)}
        groups[name] = state["param_groups"]
    return contents.layout.gather(tensors, keep), groups


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]], layout: Layout
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        _, _, index, field = key.split("/", 3)
        state.setdefault(int(index), {})[field] = layout.part_like(value, parameters[int(index)])
    # Which kernels step is a matter of this device, and not of the one that the state was written on.
    pairs = zip(groups, optimizer.param_groups, strict=True)
    groups = [{**group, "fused": own["fused"], "foreach": own["foreach"]} for group, own in pairs]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # Moments must lie in memory as before (channels last): other strides take other kernels, whose
            # rounding may differ.
            for field, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    optimizer.state[parameter][field] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _part_path(run: Path) -> Path:
    return run / "state" / f".{uuid.uuid4().hex[:8]}{_PART}"


def _remove(run: Path, path: Path) -> None:
    """Remove a state so that a kill in between leaves no half of it under its name."""
    aside = _part_path(run)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _brought_up_to_date(saved: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The resume key of a state as this version would have written it.

    Configuration keys have their present names, and those that there were not yet have their defaults, which are what
    the program did before it had them.
    """
    if not isinstance(saved.get("config"), dict):
        return saved
    config, defaults = with_present_names(saved["config"]), Config().model_dump(mode="json")
    for section, keys in wanted.get("config", {}).items():
        if not isinstance(keys, dict) and section in defaults:
            config.setdefault(section, defaults[section])
        elif isinstance(keys, dict) and isinstance(config.get(section), dict):
            missing = keys.keys() - config[section].keys()
            config[section] |= {key: defaults[section][key] for key in missing if key in defaults.get(section, {})}
    return {**saved, "config": config}


def _differences(old: Any, new: Any, path: str = "") -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return set().union(*(_differences(old.get(k), new.get(k), f"{path}.{k}" if path else k) for k in keys))
    if old == new:
        return set()
    short = [str(v) if v is None or isinstance(v, bool | int | float) else None for v in (old, new)]
    return {path if None in short else f"{path} ({short[0]} -> {short[1]})"}
