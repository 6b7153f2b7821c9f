"""The processes that frames are made in: every frame comes out once, and memory is kept between frames."""

from __future__ import annotations

import platform
import subprocess
import sys

import cv2
import numpy as np
import pytest

from iccld_cli.prepare import processes
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.tree import FolderTree
from iccld_cli.prepare.worker import FrameJob

_FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from iccld_cli.prepare.processes import keep_freed_memory
    keep_freed_memory()
def frame():
    return sum(array[0] for array in [np.ones(6_000_000, np.uint8) for _ in range(4)])
for _ in range(3):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("told", [25, 33, 90])
def test_every_frame_comes_out_once_however_many_were_told(tmp_path, told):
    rng = np.random.default_rng(0)
    for number in range(33):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), rng.integers(0, 255, (12, 16, 3)).astype(np.uint8))
    source = Images(FolderTree(tmp_path))
    frames = sorted(source.scan(), key=lambda frame: frame.key)
    job = FrameJob(source, tmp_path / "out", None)
    found = [(frame.key, record["width"]) for frame, record in processes.run(job, source.stream(iter(frames)), told, 2)]
    assert sorted(found) == [(frame.key, 16) for frame in frames]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_pages_of_a_frame_are_not_cleared_anew_for_the_next_one():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "give back")
    }
    assert faults["give back"] > 20 * 500 and faults["keep"] < faults["give back"] / 10
