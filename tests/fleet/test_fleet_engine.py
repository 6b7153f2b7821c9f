"""`--engine ray` on a cluster of two nodes: the local engine's results, whatever dies on the way."""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_model, make_video, scene

from iccld_cli.inference.smooth import GRID
from iccld_cli.inference.video import VideoReader

pytest.importorskip("ray", reason="Ray is not installed: pip install 'iccld[ray]'")

ROOT = Path(__file__).parents[2]
FRAMES = 2 * GRID + 10
SAVE = "overlay,labels,frames,dataset"


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one processor each; `address` leads to them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_TMPDIR")}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [before["PYTHONPATH"]])])
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets lie in it, whose names may have 107 letters
    os.environ["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 1,
        "include_dashboard": False,
        "object_store_memory": 80_000_000,
        "_system_config": {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000},
    }
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, object_store_memory=80_000_000, include_dashboard=False)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """A folder of images, a video of three pieces and one of one."""
    folder = tmp_path_factory.mktemp("footage")
    for i in range(20):
        cv2.imwrite(str(folder / f"{i:02}.png"), scene(i, 48, 32)[0])
    make_video(folder / "long.mp4", frames=FRAMES, size=(48, 32))
    make_video(folder / "short.mp4", frames=5, size=(48, 32))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m.safetensors")


def shown(path):
    return [(frame.time, frame.image.tobytes()) for frame in VideoReader(path).frames()]


def same(one, other):
    files = [sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) for out in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith(".mp4"):
            assert shown(one / name) == shown(other / name), name
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_predictions_are_those_of_one_machine(iccld, cluster, model, footage, tmp_path):
    command = ("predict", footage, "--ckpt", model, "--backend", "torch", "--save", SAVE, "--to-label", "4")
    assert iccld(*command, "--out", tmp_path / "one/out")[0] == 0
    ray = ("--engine", "ray", "--ray-address", cluster.address, "--parts", "4")
    t = time.time()
    status, said, error = iccld(*command, "--out", tmp_path / "many/out", *ray)
    print(time.time() - t)
    assert status == 0, error
    assert "4 parts made and joined" in said
    same(tmp_path / "one/out", tmp_path / "many/out")
