"""`--engine ray` on a cluster of two nodes: the local engine's results, whatever dies on the way."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import cv2
import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model, make_video, scene

from iccld_cli.errors import IccldError
from iccld_cli.fleet import engine
from iccld_cli.fleet.cluster import connected
from iccld_cli.fleet.common import failed_parts
from iccld_cli.fleet.engine import TRIES, run_parts
from iccld_cli.fleet.work import Fleet, PartsFailedError
from iccld_cli.inference.scoreparts import PIECE
from iccld_cli.inference.smooth import GRID
from iccld_cli.inference.video import VideoReader
from iccld_cli.parts import Part

pytest.importorskip("ray", reason="Ray is not installed: pip install 'iccld[ray]'")

pytestmark = pytest.mark.own_process  # Ray's, which may end it

ROOT = Path(__file__).parents[2]
FRAMES = GRID + 2
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
SAVE = "overlay,labels,frames,dataset"


@pytest.fixture(scope="module")
def environment():
    """The environment of all nodes, as it was before when the module ends."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def store(environment):
    """A file system of a server of S3 on this machine, with a bucket `drives`; the environment leads to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment["AWS_ENDPOINT_URL"] = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"] = "testing", "testing"
    environment["AWS_DEFAULT_REGION"] = "us-east-1"
    import s3fs

    found = s3fs.S3FileSystem(use_listings_cache=False)
    found.mkdir("drives")
    yield found
    server.stop()


@pytest.fixture(scope="module")
def cluster(environment, store):
    """Two nodes of one processor each; `address` leads to them."""
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets lie in it, whose names may have 107 letters
    environment["RAY_TMPDIR"] = folder
    from ray.cluster_utils import Cluster

    head = {
        **NODE,
        "_system_config": {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "worker_niceness": 0},
    }
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**NODE)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """A folder of images, a video of two pieces and one of one."""
    folder = tmp_path_factory.mktemp("footage")
    for i in range(8):
        cv2.imwrite(str(folder / f"{i:02}.png"), scene(i, 48, 32)[0])
    make_video(folder / "long.mp4", frames=FRAMES, size=(48, 32))
    make_video(folder / "short.mp4", frames=5, size=(48, 32))
    return folder


@pytest.fixture(scope="module")
def connection(cluster):
    """What all commands use from now on: with connections of their own, each would start processes of its own."""
    with connected(cluster.address):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of stage 1, which a worker has read in a third of the time."""
    return make_model(tmp_path_factory.mktemp("model") / "m.safetensors", "stage1")


def shown(path):
    return [(frame.time, frame.image.tobytes()) for frame in VideoReader(path).frames()]


def same(one, other, given=("", "")):
    """The same files with the same bytes, videos frame for frame; inputs lie at `given[0]` and `given[1]`."""
    files = [sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) for out in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith(".mp4"):
            assert shown(one / name) == shown(other / name), name
        else:
            wanted = (one / name).read_bytes()
            if name in ("frames.jsonl", "to_label.jsonl"):
                wanted = wanted.replace(*(f'"input": "{place}'.encode() for place in given))
            assert wanted == (other / name).read_bytes(), name


def finished(out):
    """Parts that say that they are done."""
    found = []
    for head in (out / "parts").glob("*/part.json"):
        with contextlib.suppress(OSError, ValueError):
            found += [head.parent] if json.loads(head.read_text())["done"] else []
    return found


def workers():
    """Processes of this cluster that make parts."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            mine = os.environ["RAY_TMPDIR"].encode() in (process / "environ").read_bytes()
            if mine and (process / "cmdline").read_bytes().startswith(b"ray::Worker"):
                found.append(int(process.name))
    return found


@contextlib.contextmanager
def meanwhile(*steps):
    """Wait for conditions and act, one after the other, while the block runs: pairs of functions."""
    ended, failed = threading.Event(), []

    def follow():
        try:
            for due, act in steps:
                while not due():
                    if ended.wait(0.02):
                        failed.append("the work was done before all steps were")
                        return
                act()
        except BaseException as error:
            failed.append(repr(error))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(400)
        signal.signal(signal.SIGINT, before)
    assert not failed


def test_an_interrupt_a_killed_worker_and_a_lost_node_change_nothing(iccld, cluster, tmp_path):
    model = make_model(tmp_path / "m.safetensors")  # with a UNet: slow enough to lose a node before the work is done
    footage = tmp_path / "drives"
    footage.mkdir()
    for i in range(96):
        cv2.imwrite(str(footage / f"{i:02}.png"), scene(i, 48, 32)[0])
    make_video(footage / "long.mp4", frames=9 * GRID, size=(48, 32))
    command = ("predict", footage, "--ckpt", model, "--backend", "torch", "--save", SAVE, "--to-label", "4")
    assert iccld(*command, "--out", tmp_path / "one/out")[0] == 0
    out = tmp_path / "many/out"
    ray = ("--engine", "ray", "--ray-address", cluster.address, "--out", out)
    kept = {}

    def interrupt():
        files = [p for part in finished(out) for p in (*part.glob("[!.]*"), *part.glob("[!.]*/**/*")) if p.is_file()]
        kept.update({p: p.stat().st_mtime_ns for p in files})
        signal.raise_signal(signal.SIGINT)

    with meanwhile((lambda: len(finished(out)) > 0, interrupt)):
        status, _, error = iccld(*command, *ray)
    assert (status, "finished parts are kept" in error) == (130, True)
    assert kept and not (out / "labels").exists()

    def lose_node():
        assert kept == {p: p.stat().st_mtime_ns for p in kept}  # nothing is made twice
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    had = len(finished(out))
    try:
        with meanwhile(
            (lambda: len(finished(out)) > had, lambda: os.kill(workers()[0], signal.SIGKILL)),
            (lambda: len(finished(out)) > had + 1, lose_node),
        ):
            status, said, error = iccld(*command, *ray)
    finally:
        if not cluster.worker_nodes:
            cluster.add_node(**NODE)
            cluster.wait_for_nodes()
    assert status == 0, error
    assert "parts made and joined" in said
    assert "its process ended" in error and "its node left the cluster" in error, error
    same(tmp_path / "one/out", out)


class Stumbling:
    """A work of which part 2 fails, and part 3 takes its worker along."""

    def open(self, place):
        return {"a fact": 1}

    def do(self, part, place, progress):
        if part.number == 2:
            raise IccldError("there is no second")
        if part.number == 3:
            os._exit(1)
        return 5


class Unlike(Stumbling):
    """A work that finds something else on every node."""

    def open(self, place):
        return {"the model": os.getpid()}


@pytest.mark.usefixtures("connection")
def test_what_fails_for_good_is_named_and_the_rest_is_done(cluster, monkeypatch):
    import ray

    monkeypatch.setattr(engine, "_PAUSES", (0.1, 0.4))
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    parts = [Part(number, 4) for number in range(1, 5)]
    told, seen = [], []
    with connected(cluster.address) as found, pytest.raises(PartsFailedError) as failed:
        run_parts(found, Stumbling(), parts, fleet=Fleet(), packages=("numpy",), progress=seen.append, tell=told.append)
    with connected(cluster.address) as found, pytest.raises(IccldError, match=r"node .*it has the model \d+, not \d+"):
        run_parts(found, Unlike(), parts[2:3], fleet=Fleet(), packages=())
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert set(failed.value.failed) == {parts[1], parts[2]}
    assert sum("part 2/4 on node" in line and "there is no second" in line for line in told) == TRIES - 1
    assert sum("part 3/4 on node" in line and "its process ended" in line for line in told) == TRIES - 1
    assert (seen[-1].done, seen[-1].parts) == (10, 2)
    error = str(failed_parts(failed.value))
    assert error.startswith("parts 2, 3 of 4 could not be made: there is no second") and "the same command" in error


@pytest.mark.usefixtures("connection")
def test_a_node_with_other_versions_is_refused_before_the_work(iccld, cluster, model, footage, tmp_path):
    info = tmp_path / "other/numpy-9.9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    path = os.pathsep.join([str(info.parent), os.environ["PYTHONPATH"]])
    node = cluster.add_node(**NODE, env_vars={"PYTHONPATH": path})
    cluster.wait_for_nodes()
    out = tmp_path / "out"
    command = ("predict", footage, "--ckpt", model, "--out", out, "--engine", "ray", "--ray-address", cluster.address)
    try:
        status, _, error = iccld(*command)
    finally:
        cluster.remove_node(node)
    assert (status, len(error.splitlines())) == (1, 1)
    assert re.search(r"error: node .* has numpy 9\.9\.9 and not [\d.]+: install the same versions", error), error
    assert not out.exists()


@pytest.mark.usefixtures("connection")
def test_stores_that_let_nobody_in(iccld, cluster, store, model, footage, tmp_path):
    def refused(*given):
        status, _, error = iccld(*given, "--engine", "ray", "--ray-address", cluster.address)
        assert (status, len(error.splitlines())) == (1, 1), error
        return error

    out = ("--out", tmp_path / "out")
    assert "there is nothing at s3://nobodys/in" in refused("predict", "s3://nobodys/in", "--ckpt", model, *out)
    assert "there is nothing at s3://drives/no" in refused("predict", "s3://drives/no", "--ckpt", model, *out)
    assert "s3://nobodys/out" in refused("predict", footage, "--ckpt", model, "--out", "s3://nobodys/out")
    assert "s3://drives/none.onnx" in refused("predict", footage, "--ckpt", "s3://drives/none.onnx", *out)
    server = os.environ["AWS_ENDPOINT_URL"]

    def let_in(actions):
        kind = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset-auth", actions.encode(), kind))

    let_in("0")
    try:
        error = refused("predict", "s3://drives/footage", "--ckpt", model, *out)
        assert "no permission for s3://drives/footage" in error and "credentials" in error
        error = refused("predict", footage, "--ckpt", model, "--out", "s3://drives/closed")
        assert "no permission for s3://drives/closed" in error
        data = make_dataset(tmp_path / "camvid")
        error = refused("evaluate", "--data", data, "--ckpt", model, "--json", "s3://drives/closed.json")
        assert "no permission for s3://drives/closed.json.parts" in error
        error = refused("prepare", "--images", "s3://drives/raw", *out)
        assert "no permission for s3://drives/raw" in error
    finally:
        let_in("inf")
    assert not (tmp_path / "out").exists()


def download(store, url, to):
    store.get(url, str(to), recursive=True)
    return to


@pytest.mark.usefixtures("connection")
def test_inputs_model_and_results_may_lie_in_object_storage(iccld, cluster, store, model, footage, tmp_path):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    store.put(str(footage), "drives/footage", recursive=True)
    store.put(str(model), "drives/m.safetensors")
    save = ("--backend", "torch", "--save", SAVE, "--to-label", "4")
    assert iccld("predict", footage, "--ckpt", model, *save, "--out", tmp_path / "one/pred")[0] == 0
    arguments = ("--ckpt", "s3://drives/m.safetensors", *save, "--out", "s3://drives/pred")
    ray = ("--engine", "ray", "--ray-address", cluster.address, "--parts", "4")

    def parts():
        # From the server's own table, which is in this process: to ask it so often would be most of its work.
        names = list(s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets["drives"].keys)
        return [f"drives/{name}" for name in names if re.fullmatch(r"pred/parts/[^/]+/part\.json", name)]

    with meanwhile((parts, lambda: signal.raise_signal(signal.SIGINT))):
        assert iccld("predict", "s3://drives/footage", *arguments, *ray)[0] == 130
    kept = {name: store.info(name)["LastModified"] for name in parts()}
    assert kept and not store.exists("drives/pred/labels")
    time.sleep(1)  # times in the store are whole seconds
    again = {}

    def look():
        again.update({name: store.info(name)["LastModified"] for name in kept})

    with meanwhile((lambda: len(parts()) == 4, look)):
        status, said, error = iccld("predict", "s3://drives/footage", *arguments, *ray)
    assert status == 0, error
    assert again == kept  # nothing is made twice
    assert "-> s3://drives/pred" in said and "iccld-" not in said
    found = download(store, "drives/pred", tmp_path / "many")
    same(tmp_path / "one/pred", found, (footage, "s3://drives/footage"))
    status, _, error = iccld("predict", "s3://drives/footage", *arguments, *ray)
    assert (status, "s3://drives/pred/" in error, " exists" in error, len(error.splitlines())) == (1, True, True, 1)


def scores_of(path):
    found = json.loads(path.read_text())
    for run in (found, *found["runs"]):  # how long it took, and where the model lies
        del run["seconds_per_image"], run["model"]["file"]
    return found


@pytest.mark.usefixtures("connection")
def test_scores_are_those_of_one_machine_on_a_disk_and_in_object_storage(iccld, cluster, store, model, tmp_path):
    data = make_dataset(tmp_path / "camvid", counts=(("val", 2 * PIECE + 5),), sizes=((48, 32),))
    store.put(str(data), "drives/camvid", recursive=True)
    store.put(str(model), "drives/m.safetensors")
    more = ("--by", "folder", "--backend", "torch")
    assert iccld("evaluate", "--data", data, "--ckpt", model, *more, "--json", tmp_path / "one.json")[0] == 0
    wanted = scores_of(tmp_path / "one.json")
    ray = ("--engine", "ray", "--ray-address", cluster.address)
    status, said, error = iccld("evaluate", "--data", data, "--ckpt", model, *more, "--json", tmp_path / "2.json", *ray)
    assert status == 0, error
    assert scores_of(tmp_path / "2.json") == wanted and "mIoU" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.json", "camvid", "one.json"]
    given = ("--data", "s3://drives/camvid", "--ckpt", "s3://drives/m.safetensors", "--json", "s3://drives/3.json")
    status, _, error = iccld("evaluate", *given, *more, "--report", "s3://drives/page.html", *ray)
    assert status == 0, error
    store.get("drives/3.json", str(tmp_path / "3.json"))
    assert json.loads((tmp_path / "3.json").read_text())["model"]["file"] == "s3://drives/m.safetensors"
    assert scores_of(tmp_path / "3.json") == wanted
    assert b"<html" in store.cat("drives/page.html") and not store.exists("drives/3.json.parts")


def bytes_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("connection")
def test_a_prepared_set_is_that_of_one_machine_on_a_disk_and_in_object_storage(iccld, cluster, store, tmp_path):
    raw = tmp_path / "raw"
    for i in range(9):
        image, label = scene(i, 48, 32)
        for folder, pixels in (("image", image[..., ::-1]), ("mask", label)):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(raw / folder / f"{i}.png"), pixels)
    make_video(tmp_path / "drive.mp4", frames=20, size=(48, 32))
    store.put(str(raw), "drives/raw", recursive=True)
    store.put(str(tmp_path / "drive.mp4"), "drives/drive.mp4")
    more = ("--hold-out", "0.2", "--size", "32x24")
    given = ("--images", raw / "image", "--masks", raw / "mask", *more)
    assert iccld("prepare", *given, "--name", "few", "--out", tmp_path / "one")[0] == 0
    assert iccld("prepare", "--video", tmp_path / "drive.mp4", "--fps", "10", "--out", tmp_path / "one")[0] == 0
    ray = ("--engine", "ray", "--ray-address", cluster.address)
    status, said, error = iccld("prepare", *given, "--name", "few", "--out", tmp_path / "many", *ray)
    assert status == 0, error
    assert "4 parts made and joined" in said
    assert bytes_of(tmp_path / "one/few") == bytes_of(tmp_path / "many/few")
    assert "already prepared" in iccld("prepare", *given, "--name", "few", "--out", tmp_path / "many", *ray)[1]
    stored = ("--images", "s3://drives/raw/image", "--masks", "s3://drives/raw/mask", *more)
    place = ("--out", "s3://drives/data")
    status, _, error = iccld("prepare", *stored, "--name", "few", *place, *ray)
    assert status == 0, error
    status, _, error = iccld("prepare", "--video", "s3://drives/drive.mp4", "--fps", "10", *place, *ray)
    assert status == 0, error
    assert sorted(store.ls("drives/data")) == ["drives/data/drive", "drives/data/few"]
    for name in ("few", "drive"):
        found = bytes_of(download(store, f"drives/data/{name}", tmp_path / "fetched" / name))
        wanted = bytes_of(tmp_path / "one" / name)
        for files in (found, wanted):
            info = json.loads(files.pop("dataset.json"))
            files["page"] = files.pop("index.html", b"").replace(b"s3://drives", bytes(tmp_path))
            assert info["source"].pop("path")
            files["info"] = json.dumps(info)
        assert found == wanted
