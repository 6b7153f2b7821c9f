"""No training step makes the host wait for the GPU: what would is told with its place in the code."""

import json

import pytest
from runs import adv, seg, train

# Warnings of `torch.cuda.set_sync_debug_mode` inside a training step, each with the lines of the package that led to it
# and their count. A step is what happens below the function of this name.
_WATCH = """
import atexit, json, traceback, warnings
import torch
STEP, found = "_step", {}
def show(message, category, filename, lineno, file=None, line=None):
    if "synchronizing" not in str(message):
        return
    stack = traceback.extract_stack()[:-1]
    inside = [f for f in stack if f.name == STEP and "iccld_cli" in f.filename]
    if inside:
        own = [f for f in stack if "iccld_cli" in f.filename][-5:]
        place = " < ".join(f"{f.filename.rpartition('iccld_cli/')[2]}:{f.lineno} {f.name}" for f in reversed(own))
        found[place] = found.get(place, 0) + 1
warnings.showwarning = show
warnings.simplefilter("always")
torch.cuda.set_sync_debug_mode("warn") if torch.cuda.is_available() else None
atexit.register(lambda: json.dump(found, open(WATCHED, "w")))
"""


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp16"])
@pytest.mark.parametrize("stage", ["seg", "adv"])
def test_no_step_waits(device, world, stage1, stage, precision, record_property):
    if device == "cpu" and precision == "fp16":
        pytest.skip("needs a CUDA device: fp16 training does")
    watched, steps = world / f"sync-{stage}-{precision}.json", 24
    options = ("--precision", precision, "seg.burn_in=0", "run.log_every=12")
    arguments = (seg if stage == "seg" else adv)(
        world if stage == "seg" else stage1, world / f"sync-{stage}-{precision}", device, *options, steps=steps
    )
    run = train(arguments, before=f"WATCHED = {str(watched)!r}\n{_WATCH}")
    assert run.status == 0, run.said[-3000:]
    found = json.loads(watched.read_text())
    record_property("synchronisations", found)
    # fp16's scaler looks whether gradients are finite once a step: torch's own design.
    often = {place: count for place, count in found.items() if count >= steps - 4}
    assert precision == "fp16" or not often, often
