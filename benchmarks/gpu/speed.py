"""Rows of speed and memory, each measured in a process of its own: presets beside SegFormer, training and inference."""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

import networks
from machine import ceiling
from results import Deadline, Results, call
from setting import Setting

PRESETS = ("small", "base", "large", "xl")
PEERS = ("segformer-b0", "segformer-b2", "segformer-b5")
# What is compiled first: compiling takes minutes a row.
ALIKE = (("base", "segformer-b2"), ("small", "segformer-b0"), ("large", "segformer-b5"), ("xl",))
CROPS_OF = {"segformer-b0": "small", "segformer-b2": "base", "segformer-b5": "large"}  # whose crops a peer trains on
_START = 20  # seconds; below that a row is not begun
LARGER = 8  # source and target crops a step, besides the preset's own number


def run_eager(setting: Setting, results: Results, deadline: Deadline) -> None:
    """Rows without the compiler."""
    _run("speed", setting, results, deadline, compiled=False)


def run_compiled(setting: Setting, results: Results, deadline: Deadline) -> None:
    """The same rows through torch.compile."""
    _run("compiled", setting, results, deadline, compiled=True)


def run_waiting(setting: Setting, results: Results, deadline: Deadline) -> None:
    """Share of a step spent waiting for data, by loading processes."""
    sources, target = setting.data()
    for preset in ("tiny",) if setting.toy else ("small", "base"):
        for workers in (0, 1) if setting.toy else (2, 4, 8, 12):
            name = f"{preset}, {workers} workers"
            if results.has("waiting", name) or deadline.left() < _START:
                continue
            command = [sys.executable, "benchmarks/gpu/wait.py", "--preset", preset, "--workers", str(workers)]
            command += ["--source", *map(str, sources), "--target", str(target), "--device", setting.device]
            command += ["--steps", "4", "--set", "data.crop=[64,64]"] if setting.toy else []
            command += _encoder(preset, setting)
            _row("waiting", name, command, setting, results, deadline, {})


def _run(piece: str, setting: Setting, results: Results, deadline: Deadline, compiled: bool) -> None:
    for name, command, facts in _rows(setting, compiled):
        if not results.has(piece, name) and deadline.left() > _START:
            _row(piece, name, command, setting, results, deadline, facts)
    if compiled:
        return
    missing = [name for name, _, _ in _rows(setting, compiled) if not results.has(piece, name)]
    if missing:
        results.say(f"{piece}: not measured yet: {', '.join(missing)}")


def _rows(setting: Setting, compiled: bool) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Name, command and facts of every row, those that tell most first."""
    groups = (("tiny", PEERS[0]),) if setting.toy else ALIKE if compiled else ((*PRESETS, *PEERS),)
    rows = []
    for batch in (2,) if setting.toy else (None, LARGER):
        for names in groups:
            for name in names:
                stages = (name,) if name in PEERS else ("stage1", "stage2")
                rows += [_training(setting, stage, name, batch, compiled) for stage in stages]
            rows += [_inference(setting, name, batch or 1, compiled) for name in names]
    return rows


def _training(
    setting: Setting, row: str, name: str, batch: int | None, compiled: bool
) -> tuple[str, list[str], dict[str, Any]]:
    from iccld_cli.config import load_config

    peer = name in PEERS
    config = load_config(CROPS_OF[name] if peer else name)
    width, height = (64, 64) if setting.toy else config.data.crop
    batch = batch or config.data.batch_size
    sources, target = setting.data()
    command = [sys.executable, "benchmarks/train.py", "--row", row if peer else f"{row} cached"]
    command += ["--device", setting.device]
    command += ["--source", str(sources[0]), "--target", str(target), "--preset", "tiny" if peer else name]
    command += ["--crop", f"{width}x{height}", "--batch-size", str(batch), "--steps", "3" if setting.toy else "20"]
    command += ["--compile"] * compiled + ([] if peer else _encoder(name, setting))
    images = 2 * batch
    title = f"{name} training, batch {batch}" if peer else f"{name} {row}, batch {batch}"
    return title, command, {"images": images, "crop": f"{width}x{height}"}


def _inference(setting: Setting, name: str, batch: int, compiled: bool) -> tuple[str, list[str], dict[str, Any]]:
    size = "96x64" if setting.toy else "1024x512"
    command = [sys.executable, "benchmarks/gpu/infer.py", name, "--size", size, "--batch-size", str(batch)]
    command += ["--device", setting.device, "--folder", str(setting.work / "encoders")]
    command += ["--precision", "bf16" if setting.device == "cuda" else "fp32"]
    command += ["--compile"] * compiled + (["--repeats", "3"] if setting.toy else [])
    return f"{name} inference, batch {batch}", command, {"images": batch, "size": size}


def _encoder(preset: str, setting: Setting) -> list[str]:
    folder = networks.encoder_folder(preset, setting.work / "encoders")
    return ["--encoder", folder] if folder else []


def _row(
    piece: str,
    name: str,
    command: list[str],
    setting: Setting,
    results: Results,
    deadline: Deadline,
    facts: dict[str, Any],
) -> None:
    """Measure a row; running out of time or memory is an outcome too."""
    log = setting.work / f"{piece}.log"
    longest = 480 if piece == "compiled" else 240
    seconds = min(deadline.left() - 5, longest)
    status, said = call(command, seconds, log)
    if status is None:
        if seconds >= longest - 20:
            results.put(piece, name, {"outcome": f"not within {seconds:.0f} s", **facts})
        else:
            results.say(f"{piece}: {name} had only {seconds:.0f} s left; run again to measure it")
        return
    if status:
        short = "out of memory" if "out of memory" in said else "failed"
        results.put(piece, name, {"outcome": short, "error": said.strip()[-3000:], **facts})
        return
    found = json.loads(said.strip().splitlines()[-1])
    if "times" in found:
        found = _summary(found, facts, results, setting, name)
    results.put(piece, name, {**found, **facts})


def _summary(
    found: dict[str, Any], facts: dict[str, Any], results: Results, setting: Setting, name: str
) -> dict[str, Any]:
    times = sorted(found["times"])
    seconds = median(times)
    # What the compiler runs has the same operations; they are counted where it is off.
    flops = found["flops"] or results.rows("speed").get(name, {}).get("flops")
    row = {"seconds": seconds, "fastest": times[0], "slowest": times[-1], "images_per_s": facts["images"] / seconds}
    row |= {"peak_gib": found["peak_gib"], "flops": flops}
    top = ceiling(results, "bf16" if setting.device == "cuda" else "fp32")
    if flops:
        row["tflops"] = flops / seconds / 1e12
        if top:
            row["of_ceiling"] = flops / seconds / top
    return row
