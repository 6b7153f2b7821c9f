"""Does a change of the code change a number? Losses of short double-precision trainings, recorded and compared.

    python benchmarks/same_numbers.py record before.json      # with the code as it was
    python benchmarks/same_numbers.py record after.json       # with the code as it is
    python benchmarks/same_numbers.py compare before.json after.json

Every variant of both stages trains for 20 steps at tiny size through the command line, in float64, so that another
order of sums shows up at 1e-13 and a changed formula far above the tolerance of 1e-9. It uses nothing of the package
but its command line, so that it runs with any layout of the code; put another checkout first with PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

STEPS = 20
TOLERANCE = 1e-9
SIZES = [
    "model.tiny_channels=[8,8,16,16]", "model.latent_channels=8", "model.fuse_channels=8", "model.skip_channels=4",
    "model.decoder_channels=8", "model.unet_channels=[16,16]", "model.discriminator_channels=8",
]  # fmt: skip
RUN = [
    "data.workers=0", "data.rare_class_pixels=20", "run.log_every=1", "run.validate_every=0", "run.overlay_every=0",
    "optim.lr=1e-3",
]  # fmt: skip
SEG = [*SIZES, *RUN, "seg.burn_in=0.3"]
# A wide gate and a large adversarial weight, so that every term is at work within 20 steps.
ADV = [*RUN, "adv.adversarial_weight=0.1"]
# name: (arguments, settings, processes)
STAGE_1 = {
    "source only": (["--source-only"], [], 1),
    "stage 1": ([], [], 1),
    "stage 1, threshold": ([], ["pseudo.gate=threshold", "pseudo.threshold=0.3"], 1),
    "stage 1, balanced": ([], ["pseudo.gate=balanced"], 1),
    "stage 1, masked": ([], ["seg.masked_weight=1", "seg.masked_block=16"], 1),
    "stage 1, context": ([], ["data.context=[96,64]"], 1),
    "stage 1, two resolutions": ([], ["model.detail=true"], 1),
    "stage 1, two resolutions, masked": ([], ["model.detail=true", "seg.masked_weight=1", "seg.masked_block=16"], 1),
    "stage 1, micro-batches": ([], ["run.accumulate=2"], 1),
    "stage 1, feature distance": (["--encoder", "{encoder}"], ["seg.feature_distance_weight=0.1"], 1),
    "stage 1, two processes": ([], [], 2),
    "stage 1, sharded": ([], ["run.shard=true"], 2),
}
STAGE_2 = {
    "stage 2": ("stage 1", [], 1),
    "stage 2, no UNet": ("stage 1", ["adv.generate=false"], 1),
    "stage 2, output adversary": ("stage 1", ["adv.adversary=output"], 1),
    "stage 2, output adversary, no UNet": ("stage 1", ["adv.adversary=output", "adv.generate=false"], 1),
    "stage 2, aligned": ("stage 1", ["adv.align_encoder=true"], 1),
    "stage 2, no self-training": ("stage 1", ["adv.self_training=false"], 1),
    "stage 2, output adversary alone": (
        "source only", ["adv.self_training=false", "adv.generate=false", "adv.adversary=output"], 1,
    ),
    "stage 2, no adversary": ("stage 1", ["adv.adversarial_weight=0"], 1),
    "stage 2, gradient penalty": ("stage 1", ["adv.gradient_penalty=1"], 1),
    "stage 2, frozen coder": ("stage 1", ["adv.coder_lr_factor=0"], 1),
    "stage 2, two resolutions": ("stage 1, two resolutions", [], 1),
    "stage 2, two resolutions, output adversary": ("stage 1, two resolutions", ["adv.adversary=output"], 1),
    "stage 2, micro-batches": ("stage 1", ["run.accumulate=2", "adv.gradient_penalty=1"], 1),
    "stage 2, pretrained encoder": ("stage 1, feature distance", [], 1),
    "stage 2, two processes": ("stage 1", ["adv.gradient_penalty=1"], 2),
    "stage 2, two processes, micro-batches": ("stage 1", ["run.accumulate=2"], 2),
    "stage 2, sharded": ("stage 1", [], 2),
}  # fmt: skip
LEFT_OUT = ("step_seconds", "memory_gib", "adversarial", "stage")
RENAMED = {"pseudo_believed": "pseudo_label_weight"}
"""Keys of the log that have other names now."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    record_ = commands.add_parser("record", help="train every variant and write the numbers")
    record_.add_argument("out", type=Path)
    record_.add_argument("--only", help="variants whose name holds this text, and what they start from")
    compare_ = commands.add_parser("compare", help="compare two records; exit status 1 where they differ")
    compare_.add_argument("before", type=Path)
    compare_.add_argument("after", type=Path)
    one = commands.add_parser("train", help="one command of the package in double precision")
    one.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.command == "record":
        record(given.out, given.only)
    elif given.command == "compare":
        sys.exit(compare(given.before, given.after))
    else:
        train(given.arguments)


def record(out: Path, only: str | None) -> None:
    """Train every variant, or those whose name holds a text, and write {name: rows of its log}."""
    numbers: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        _make_world(world)
        for name, arguments, processes in _variants(world, only):
            print(name, flush=True)
            run = Path(arguments[arguments.index("--out") + 1])
            _launch(arguments, processes)
            rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
            numbers[name] = [{k: v for k, v in row.items() if k not in LEFT_OUT} for row in rows]
            assert len(rows) == STEPS, name
    out.write_text(json.dumps(numbers, indent=1) + "\n")


def compare(before: Path, after: Path) -> int:
    """Print the largest relative difference of each variant; 1 where one is above the tolerance."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    bad = 0
    for name in new:
        if name not in old:
            print(f"{'new':>10}  {name}")
            continue
        worst, where = 0.0, ""
        for row, again in zip(old[name], new[name], strict=True):
            row = {RENAMED.get(k, k): v for k, v in row.items()}
            again = {RENAMED.get(k, k): v for k, v in again.items()}
            if row.keys() != again.keys():
                worst, where = float("inf"), f"keys {sorted(row.keys() ^ again.keys())}"
                break
            for key, value in row.items():
                gap = abs(value - again[key]) / max(abs(value), 1e-3)
                if not gap <= worst:
                    worst, where = gap, f"{key} at step {row['step']}"
        bad += not worst <= TOLERANCE
        print(f"{worst:10.1e}  {name}  {where}")
    missing = [name for name in old if name not in new]
    if missing:
        print(f"only in {before}: {', '.join(missing)}")
    print(f"{bad} of {len(new)} variants differ by more than {TOLERANCE:g}")
    return int(bad > 0)


def train(arguments: list[str]) -> None:
    """Run the package's command line in float64."""
    import diffusers  # noqa: F401 - these libraries know files' types by torch's names: before the names change
    import safetensors.torch  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    torch.float32 = torch.float64  # type: ignore[misc]
    from iccld_cli import config
    from iccld_cli.__main__ import main as command

    for old, new in getattr(config, "RENAMED", {}).items():  # of the checkout at hand
        arguments = [text.replace(f"{old}=", f"{new}=") for text in arguments]
    sys.argv = ["iccld", *arguments]
    command()


def _variants(world: Path, only: str | None) -> Iterator[tuple[str, list[str], int]]:
    wanted = {name for name in [*STAGE_1, *STAGE_2] if only is None or only in name}
    needed = wanted | {STAGE_2[name][0] for name in wanted if name in STAGE_2}
    common = ["--iterations", str(STEPS), "--crop", "64x64"]
    for name, (more, settings, processes) in STAGE_1.items():
        if name in needed:
            data = ["--source", str(world / "source"), "--target", str(world / "target")]
            more = [part.format(encoder=world / "encoder") for part in more]
            yield name, *_command("adapt-seg", world, name, [*data, *more, *common], [*SEG, *settings], processes)
    for name, (start, settings, processes) in STAGE_2.items():
        if name in needed:
            checkpoint = ["--ckpt", str(world / start.replace(" ", "-") / "stage1.safetensors")]
            yield name, *_command("adapt-adv", world, name, [*checkpoint, *common], [*ADV, *settings], processes)


def _command(
    command: str, world: Path, name: str, arguments: list[str], settings: list[str], processes: int
) -> tuple[list[str], int]:
    out = ["--out", str(world / name.replace(" ", "-")), "--batch-size", str(4 // processes)]
    sets = [part for value in settings for part in ("--set", value)]
    return [command, *arguments, *out, *sets], processes


def _launch(arguments: list[str], processes: int) -> None:
    own = [os.path.abspath(__file__), "train", *arguments]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, *launcher, *own], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}")


def _make_world(world: Path) -> None:
    """A labelled and an unlabelled prepared data set, and a pretrained encoder of random weights."""
    for name, labelled, seed in (("source", True, 0), ("target", False, 1)):
        _make_dataset(world / name, labelled, seed)
    import torch
    from transformers import SegformerConfig, SegformerModel

    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], drop_path_rate=0.1
    )
    SegformerModel(config).double().save_pretrained(world / "encoder")


def _make_dataset(root: Path, labelled: bool, seed: int, count: int = 5) -> None:
    """In the documented format; flat shapes in class colours, with noise and an unlabelled rim."""
    colors = {0: (128, 64, 128), 2: (70, 70, 70), 10: (70, 130, 180), 13: (0, 0, 142)}
    width, height = 80, 64
    lines = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        label = np.full((height, width), 10, np.uint8)
        label[height // 3 :, : int(rng.integers(20, width))] = 2
        label[height // 2 :] = 0
        left = int(rng.integers(0, width - 20))
        label[height // 2 : height // 2 + 14, left : left + 18] = 13
        palette = np.zeros((256, 3), np.int16)
        for train_id, color in colors.items():
            palette[train_id] = color
        image = np.clip(palette[label] + rng.integers(-30, 31, (*label.shape, 3)) + 30 * seed, 0, 255).astype(np.uint8)
        label[-4:] = 255
        names = [f"{kind}/train-{number}.png" for kind in ("images", "labels")]
        for name, pixels in zip(names, (image[..., ::-1], label), strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), pixels)
        ids, counts = np.unique(label, return_counts=True)
        pixels_of = {str(i): int(n) for i, n in zip(ids, counts, strict=True)}
        lines.append(
            {"split": "train", "image": names[0], "label": names[1] if labelled else None, "width": width,
             "height": height, "pixels": pixels_of if labelled else None}
        )  # fmt: skip
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "dataset.json").write_text(json.dumps(_info(root.name, labelled, count)))


def _info(name: str, labelled: bool, count: int) -> dict[str, object]:
    """`dataset.json`, with the 19 classes of Cityscapes in the colours of its scripts."""
    classes = {
        "road": [128, 64, 128], "sidewalk": [244, 35, 232], "building": [70, 70, 70], "wall": [102, 102, 156],
        "fence": [190, 153, 153], "pole": [153, 153, 153], "traffic light": [250, 170, 30],
        "traffic sign": [220, 220, 0], "vegetation": [107, 142, 35], "terrain": [152, 251, 152],
        "sky": [70, 130, 180], "person": [220, 20, 60], "rider": [255, 0, 0], "car": [0, 0, 142],
        "truck": [0, 0, 70], "bus": [0, 60, 100], "train": [0, 80, 100], "motorcycle": [0, 0, 230],
        "bicycle": [119, 11, 32],
    }  # fmt: skip
    return {
        "format_version": 1, "name": name, "splits": {"train": count}, "count": count, "size": None, "source": {},
        "label_space": {"name": "cityscapes19", "classes": [{"name": n, "color": c} for n, c in classes.items()]},
        "classes_known": ["road", "building", "sky", "car"] if labelled else None, "tool_version": "", "skipped": [],
    }  # fmt: skip


if __name__ == "__main__":
    main()
