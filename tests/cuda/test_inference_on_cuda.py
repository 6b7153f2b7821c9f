"""The shipped model answers on a GPU as it does on the CPU."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from runs import iccld, read

from iccld_cli.inference.model import find_model

REAL = os.environ.get("ICCLD_REAL_DATA")
LIKE_THE_CPU = 0.995
FP32 = {"NVIDIA_TF32_OVERRIDE": "0"}  # convolutions on a GPU are TF32 otherwise, with ten bits of fraction


@pytest.fixture(scope="session")
def photos(world):
    """A folder with a few images: real ones where there are any."""
    found = sorted(Path(REAL, "camvid/val").glob("*"))[::25] if REAL else []
    folder = world / "photos"
    folder.mkdir()
    for path in found or sorted((world / "target/images").glob("*")):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("options", [(), ("--steps", "0"), ("--samples", "4"), ("--scales", "1,1.5", "--flip")])
def test_labels_are_those_of_the_cpu(device, world, photos, options, record_property):
    name = "-".join(options).replace(",", "-")
    cpu, gpu = (
        labels(photos, world / f"{kind}{name}", where, options, FP32) for kind, where in (("a", "cpu"), ("b", device))
    )
    record_property("equal_labels", equal(cpu, gpu))
    if not options:  # what a user sees
        record_property("equal_labels_tf32", equal(cpu, labels(photos, world / "c", device, options, {})))
    assert equal(cpu, gpu) >= LIKE_THE_CPU


def labels(photos, out, device, options, environment):
    """Name -> labels of each photo."""
    command = ("predict", photos, "--out", out, "--save", "labels", "--device", device, *options)
    iccld(*command, out=out, environment=environment)
    return {p.name: cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted(out.rglob("*.png"))}


def equal(one, other):
    """Share of pixels with the same label."""
    assert one.keys() == other.keys() and one
    return float(np.mean([(one[name] == other[name]).mean() for name in one]))


def test_scores_are_those_of_the_cpu(device, world, record_property):
    scores = []
    for where in ("cpu", device):
        out = world / f"scores-{where}{len(scores)}.json"
        model = ("--ckpt", find_model(None), "--data", world / "target", "--split", "val")
        iccld("evaluate", *model, "--json", out, "--device", where, out=out)
        scores.append(read(out))
    record_property("miou_cpu", scores[0]["miou"])
    record_property("miou", scores[1]["miou"])
    assert scores[1]["miou"] == pytest.approx(scores[0]["miou"], abs=0.3)
    assert scores[1]["pixel_accuracy"] == pytest.approx(scores[0]["pixel_accuracy"], abs=0.3)
