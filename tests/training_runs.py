"""Small real training runs in processes of their own, and the data they train on."""

import json
import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest

from iccld_cli.data.prepared import DatasetInfo, Frame
from iccld_cli.labels import CITYSCAPES

KNOWN = ("road", "building", "sky", "car")
SMALL = (
    "model.tiny_channels=[8, 8, 16, 16]",
    "model.latent_channels=8",
    "model.fuse_channels=8",
    "model.skip_channels=4",
    "model.decoder_channels=8",
    "model.unet_channels=[16, 16]",
    "model.discriminator_channels=8",
    "data.workers=0",
    "data.rare_class_pixels=20",
    "seg.burn_in=0.3",
    "run.log_every=1",
    "run.validate_every=0",
    "run.overlay_every=0",
)
TIMING = ("step_seconds", "memory_gib")
LATE = [
    "diffusers.models.unets", "diffusers.schedulers.scheduling_ddim", "torch._dynamo", "iccld_cli.cli.app",
    "matplotlib.figure", "matplotlib.backends.backend_agg",
]  # fmt: skip
"""What is imported where it is first used, which each process would do again."""
PRELOADED = ["iccld_cli.train.run", "iccld_cli.__main__", *LATE, "frozen"]


def make_dataset(root, frames=(("train", 5),), size=(80, 64), labelled=True, seed=0):
    """A prepared data set in the documented format, written without the code under test."""
    root, lines = Path(root), []
    palette = np.array(CITYSCAPES.colors, np.int16)
    for split, count in frames:
        for number in range(count):
            rng = np.random.default_rng([seed, number, len(split)])
            label = np.full(size[::-1], 10, np.uint8)
            label[size[1] // 3 :, : int(rng.integers(20, size[0]))] = 2
            label[size[1] // 2 :] = 0
            left = int(rng.integers(0, size[0] - 20))
            label[size[1] // 2 : size[1] // 2 + 14, left : left + 18] = 13
            image = np.clip(palette[label] + rng.integers(-30, 31, (*label.shape, 3)), 0, 255).astype(np.uint8)
            label[-4:] = 255
            names = [f"{kind}/{split}-{number}.png" for kind in ("images", "labels")]
            for name, pixels in zip(names, (image[..., ::-1], label), strict=True):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / name), pixels)
            counts = dict(zip(*(v.tolist() for v in np.unique(label, return_counts=True)), strict=True))
            frame = Frame(split, names[0], names[1] if labelled else None, *size, counts if labelled else None)
            lines.append(frame.to_json())
    info = DatasetInfo(name=root.name, classes_known=KNOWN if labelled else None, splits=dict(frames))
    (root / "dataset.json").write_text(json.dumps(info.to_json()), encoding="utf-8")
    (root / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def seg_arguments(world, out, *more, steps=6, batch=2):
    """`iccld adapt-seg` on the small data; `more` are further arguments, `a.b=c` among them becomes `--set`."""
    data = ["--source", str(world / "source"), "--target", str(world / "target")]
    return ["adapt-seg", *data, *_common(out, steps, batch), *_sets(SMALL), *_sets(more)]


def adv_arguments(checkpoint, out, *more, steps=6, batch=2):
    """`iccld adapt-adv` from a stage-1 file."""
    own = [s for s in SMALL if s.startswith(("data.", "run."))]
    return ["adapt-adv", "--ckpt", str(checkpoint), *_common(out, steps, batch), *_sets(own), *_sets(more)]


def _common(out, steps, batch):
    return ["--out", str(out), "--iterations", str(steps), "--batch-size", str(batch), "--crop", "64x64"]


def _sets(values):
    return [part for value in values for part in (["--set", value] if "=" in value else [value])]


def start(arguments, ranks=1, room=None):
    """Run the command line in fresh processes, which share one start of Python; returns them.

    Each prints into `OUT.<rank>.txt` beside the run folder. `room` is how many bytes each may take besides what its
    libraries have taken.
    """
    said = Path(arguments[arguments.index("--out") + 1])
    return _start(_main, (arguments, room), said, ranks)


def call(function, out, *arguments, ranks=2, timeout=400):
    """Call `function(out, rank, *arguments)` in processes of one training; returns the exit statuses."""
    return _finish(_start(_call, (function, str(out), arguments), Path(out), ranks), timeout)


def forks():
    """A `multiprocessing` context: processes that share one start of Python and of the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _start(target, arguments, said, ranks):
    context = forks()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        out = said.with_name(f"{said.name}.{rank}.txt")
        process = context.Process(target=target, args=(*arguments, rank, ranks, port, str(out)))
        process.start()
        processes.append(process)
    return processes


def run(arguments, ranks=1, timeout=400):
    """Run the command line to its end; returns the exit statuses."""
    return _finish(start(arguments, ranks), timeout)


def _finish(processes, timeout):
    for process in processes:
        process.join(timeout)
    return [p.exitcode for p in processes]


def _join(rank, ranks, port, said):
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if ranks > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), **address}
    import torch

    torch.set_num_threads(1)
    with open(said, "a", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _call(function, out, arguments, rank, ranks, port, said):
    _join(rank, ranks, port, said)
    try:
        function(Path(out), rank, *arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _main(arguments, room, rank, ranks, port, said):
    from iccld_cli.__main__ import main

    _join(rank, ranks, port, said)
    if room is not None:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = ["iccld", *arguments]
    try:
        main()
    except SystemExit as leave:  # without the interpreter's long goodbye
        sys.stdout.flush()
        os._exit(leave.code if isinstance(leave.code, int) else int(bool(leave.code)))
    sys.stdout.flush()
    os._exit(0)


def said(out, rank=0):
    """What a run printed."""
    return Path(out).with_name(f"{Path(out).name}.{rank}.txt").read_text(encoding="utf-8")


def numbers(out):
    """Lines of a run's log without what a clock says."""
    rows = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def same_within_rounding(one, other, rel=2e-3):
    """The same losses at the same steps."""
    keys = ("loss", "loss_source", "loss_mixed", "loss_feature", "loss_latent", "loss_decoded", "loss_adversarial")
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for a, b in zip(one, other, strict=True):
        for key in (*keys, "disc_loss"):
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=rel), (a["step"], key)
