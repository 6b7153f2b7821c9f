"""Other ways to use a diffusion after stage 1, tried with E and D frozen, and what becomes of E and D with them.

    DATA="--source data/carla --source data/virtual-camera --source data/virtual-game --target data/camvid"
    python benchmarks/stage2_trials.py masked $DATA --seeds 0 1 --out runs/masked
    python benchmarks/stage2_trials.py repair $DATA --encoder MOBILENET_V2_FOLDER --variant full --out runs/repair
    python benchmarks/stage2_trials.py retrain $DATA --encoder MOBILENET_V2_FOLDER --answers repaired \\
        --network runs/repair/network-0.safetensors --steps 300 --out runs/retrain
    python benchmarks/stage2_trials.py judge $DATA --out runs/judge
    python benchmarks/stage2_trials.py start $DATA --out runs/start
    python benchmarks/stage2_trials.py --jobs                         # what is worth running, a JSON object a line
    python benchmarks/stage2_trials.py --table runs                   # results of all folders in `runs`

`masked`, evidence-masked diffusion. The noise is which blocks of cells of z_0 and of the inter-coder features are
hidden; the time step is the hidden share. The UNet fills in, and learns cross-entropy on source and mixed frames and
the unmasked answer on target frames. The answer is that of the unmasked pass. Four complementary masks hide every cell
once; 1 - mean p of the answer over them says how unsure it is, and is compared with the same score over mirrored and
rescaled views.

`repair`, noise on the model's own answer (after DDPS, Lai et al. 2023, arXiv 2306.01721). The class probabilities are
embedded and noised; a wider UNet, conditioned on features of the ImageNet encoder that never saw a label, predicts a
better answer. The answers that it learns from are made worse on purpose, for on its own training frames the model is
too often right: hidden blocks, and no inter-coder features in half of the frames. `--variant` leaves a part out:

    full             all of it                          plain            no noise and no time step
    own              z_0 and the inter-coder features of the frozen model in place of the ImageNet features
    plain-own        both of these                      no-features      the answer alone
    features-alone   ImageNet features alone, without the first answer, noise and time step

`retrain`, E and D trained again (after DiffRect, arXiv 2407.09918) on the repaired answers to the target's training
frames, on the start's own (`--answers start`, or `averaged` over the mirror image and two scales), or on none of them,
which is stage 1 continued (`--answers none`).

`judge`, a judge that tells latents of label maps from the UNet's estimates on target frames (`stage2/label_judge.py`).

`start`, the model file as it is, which all are compared with.

Networks see whole frames, but for `retrain` without `--whole-frames`. What E gives is computed once for a fixed number
of source, mixed and target frames, so that a step costs no pass of E. OUT/result.json holds the scores, and
OUT/network-SEED.safetensors what `repair` has learnt; RESULTS.md holds what came out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from stage2.frames import WARM_UP, Frozen
from stage2.jobs import lines
from stage2.label_judge import JudgeTrial
from stage2.masked import MaskedTrial
from stage2.repair import VARIANTS, RepairTrial
from stage2.retrain import ANSWERS, retrain
from stage2.table import table
from stage2.trial import Trial, judge_frozen

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.files import write_json
from iccld_cli.inference.device import pick_device

TRIALS: dict[str, type[Trial]] = {"masked": MaskedTrial, "repair": RepairTrial, "judge": JudgeTrial}


def main() -> None:
    """Train a trial for each seed, judge it, and print a table."""
    options = _options()
    if options.jobs:
        for line in lines(options.jobs):
            print(json.dumps(line))
        return
    if options.table:
        print(table(options.table))
        return
    torch.backends.cudnn.benchmark = True
    try:
        if options.trial == "start":
            _start(options)
        elif options.trial == "retrain":
            retrain(options, lambda rows: _write(options, rows))
        else:
            _train(options)
    except IccldError as error:
        sys.exit(f"error: {error.message}{f'; {error.hint}' if error.hint else ''}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=(*TRIALS, "retrain", "start"), nargs="?")
    parser.add_argument(
        "--jobs", type=float, nargs="?", const=25.5, metavar="MINUTES",
        help="Print the jobs, what is worth most first, that take so long on a GPU, one after the other, and stop.",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="DIR", help="Print the results of the folders in DIR, and stop.")
    parser.add_argument("--ckpt", type=Path, default=Path(__file__).parents[1] / "assets" / "iccld-small.safetensors")
    parser.add_argument("--source", type=Path, action="append")
    parser.add_argument("--target", type=Path)
    parser.add_argument("--encoder", default="google/mobilenet_v2_1.0_224", help="Its features are the condition.")
    parser.add_argument("--splits", nargs="+", default=["val"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--frames", type=int, default=400, help="Source, mixed and target frames, of each.")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="Frames that the gates see before them.")
    parser.add_argument("--limit", type=int, help="Judged frames, evenly spread; all where it is left out.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="Processes that load training frames.")
    parser.add_argument("--out", type=Path, help="Folder to write.")
    repair = parser.add_argument_group("repair")
    repair.add_argument("--variant", choices=VARIANTS, default="full")
    again = parser.add_argument_group("retrain")
    again.add_argument("--answers", choices=ANSWERS, default="none")
    again.add_argument("--network", type=Path, help="What `repair --variant full` has learnt.")
    again.add_argument("--keep", type=float, default=0.7, help="Share of the pixels of a class, the surest.")
    again.add_argument("--rate", type=float, default=0.3, help="Factor on the start's learning rates.")
    again.add_argument("--mixed-weight", type=float, default=1.0, help="Of the self-training beside the answers.")
    again.add_argument("--batch-size", type=int, default=4)
    again.add_argument("--whole-frames", action="store_true", help="In place of the start's crops.")
    again.add_argument("--train-limit", type=int, help="Only the first training frames are answered.")
    judge = parser.add_argument_group("judge")
    judge.add_argument("--judge-weight", type=float, default=0.03, help="Of its loss; 0 leaves the judge out.")
    judge.add_argument("--no-calibration", action="store_true", help="Leave out what holds the samples' mean.")
    judge.add_argument("--label-steps", type=int, default=300, help="Steps that the label encoder is trained for.")
    options = parser.parse_args()
    if options.jobs or options.table:
        return options
    if not (options.trial and options.source and options.target and options.out):
        parser.error("name a trial, --source, --target and --out")
    if options.trial == "retrain" and options.answers == "repaired" and options.network is None:
        parser.error("--answers repaired needs --network")
    return options


def _start(options: argparse.Namespace) -> None:
    device, data, rows = pick_device(options.device), PreparedDataset(options.target), []
    frozen = Frozen(options.ckpt, None, device)
    for split in options.splits:
        rows.append({"split": split, "scores": judge_frozen(frozen, "start", data, split, options.limit)})
        _write(options, rows)


def _train(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    trial, data, rows = TRIALS[options.trial](options), PreparedDataset(options.target), []
    print(f"frames: {time.perf_counter() - began:.0f} s on {trial.device}", flush=True)
    for seed in options.seeds:
        torch.manual_seed(seed)
        network = trial.network().to(trial.device)
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"{options.trial}, seed {seed}: {millions:.1f} M parameters", flush=True)
        began, computing = time.perf_counter(), time.process_time()
        judged = trial.train(network, seed)
        took = {
            "seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - computing, 1)
        }  # fmt: skip
        if options.trial == "repair":
            options.out.mkdir(parents=True, exist_ok=True)
            tensors = {name: t.cpu().contiguous() for name, t in judged.state_dict().items()}
            save_file(tensors, options.out / f"network-{seed}.safetensors")
        for split in options.splits:
            row = {"seed": seed, "steps": options.steps, "split": split, **took, "parameters_m": round(millions, 2)}
            rows.append({**row, "scores": trial.judge(judged, data, split)})
            _write(options, rows)


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write everything so far, and print the last row."""
    own = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    own["source"] = [str(path) for path in options.source]
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "result.json", {"options": own, "rows": rows})
    last = rows[-1]
    print(f"| seed {last.get('seed', '-')}, {last['split']} | mIoU | AUROC |\n|---|---|---|")
    for name, row in last["scores"].items():
        print(f"| {name} | {row['miou']:.2f} | {row['auroc']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
