"""What `--engine ray` and addresses in object storage refuse, without a cluster."""

import importlib.util
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model

from iccld_cli import storage
from iccld_cli.errors import IccldError
from iccld_cli.fleet import scratch
from iccld_cli.fleet.cluster import Node
from iccld_cli.fleet.common import token_in
from iccld_cli.fleet.engine import parts_for, slots, usable_nodes
from iccld_cli.fleet.work import Fleet
from iccld_cli.inference.inputs import collect

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and a labelled data set."""
    folder = tmp_path_factory.mktemp("made")
    return make_model(folder / "m.safetensors"), make_dataset(folder / "camvid")


def commands(made, out):
    model, data = made
    return {
        "predict": ("predict", data / "images", "--ckpt", model, "--out", out),
        "evaluate": ("evaluate", "--data", data, "--ckpt", model, "--json", out / "e.json"),
        "prepare": ("prepare", "--images", data / "images", "--out", out),
    }


@pytest.mark.parametrize("command", ["predict", "evaluate", "prepare"])
def test_without_the_extra_one_line_says_how_to_install_it(iccld, made, tmp_path, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, error = iccld(*commands(made, tmp_path / "out")[command], "--engine", "ray")
    assert status == 1
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "pip install 'iccld[ray]'" in told[0]
    assert not (tmp_path / "out").exists()


def test_the_local_engine_imports_neither_ray_nor_fsspec(tmp_path):
    """torch and the hub's library may bring fsspec along, so this looks at what preparing imports."""
    code = (
        "import sys; from iccld_cli.cli.app import app\n"
        f"app(['prepare', '--virtual', '1', '--look', 'game', '--size', '64x32', '--out', {str(tmp_path)!r}], "
        "standalone_mode=False)\n"
        "print('imported', *[name for name in ('ray', 'fsspec', 's3fs', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("imported")


def listener(answer):
    """A server of one connection that answers with some bytes; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with server, server.accept()[0] as line:
            line.recv(100)
            line.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


@needs_ray
@pytest.mark.parametrize("command", ["predict", "evaluate", "prepare"])
def test_an_address_that_does_not_answer(iccld, made, tmp_path, command):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    given = (*commands(made, tmp_path / "out")[command], "--engine", "ray")
    for address, words in (
        (f"127.0.0.1:{port}", f"no Ray answers at 127.0.0.1:{port} (connection refused)"),
        (listener(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "is not Ray"),
        ("head", "--ray-address head is no address: write HOST:PORT"),
        ("ray://head:10001", "--ray-address ray://head:10001 is no address"),
    ):
        status, _, error = iccld(*given, "--ray-address", address)
        assert (status, words in error) == (1, True), error
        assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("predict", ("--engine", "dask"), "write local or ray"),
        ("predict", ("--ray-address", "head:6379"), "goes with --engine ray"),
        ("evaluate", ("--parts", "3"), "goes with --engine ray"),
        ("predict", ("--engine", "ray", "--part", "1/2"), "which makes all parts"),
        ("prepare", ("--engine", "ray", "--merge"), "which makes all parts"),
        ("prepare", ("--engine", "ray", "--check"), "cannot go with --engine ray"),
        ("evaluate", ("--engine", "ray", "--no-labels"), "cannot go with --engine ray"),
    ],
)
def test_options_that_do_not_go_together(iccld, made, tmp_path, command, more, words):
    status, _, error = iccld(*commands(made, tmp_path / "out")[command], *more)
    assert (status, words in " ".join(error.replace("│", "").split())) == (2, True)


@pytest.mark.parametrize(
    "given",
    [
        ("predict", "a.png", "--out", "s3://bucket/out"),
        ("predict", "a.png", "--ckpt", "s3://bucket/m.safetensors"),
        ("evaluate", "--data", "s3://bucket/camvid"),
        ("prepare", "--gta5", "s3://bucket/gta5"),
        ("prepare", "--images", "s3://bucket/images"),
        ("prepare", "--virtual", "1", "--out", "s3://bucket/data"),
    ],
)
def test_one_machine_alone_wants_disks(iccld, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    status, _, error = iccld(*given)
    assert (status, len(error.splitlines())) == (1, 1)
    assert "lies in object storage" in error and "--engine ray" in error and "s3://bucket" in error
    assert not list(tmp_path.iterdir())


@needs_ray
def test_streams_are_for_one_machine(iccld, made, tmp_path):
    status, _, error = iccld("predict", "rtsp://localhost/s", "--ckpt", made[0], "--out", tmp_path, "--engine", "ray")
    assert (status, "cannot go with streams" in error) == (1, True)


def test_addresses_survive_being_paths():
    assert storage.url_of(Path("s3://bucket/key/x")) == storage.url_of("s3://bucket/key/x/") == "s3://bucket/key/x"
    for text in ("/data/x", "data", "C:/data", "http://host/a.png", "rtsp://host/s", "s3:/bucket", "file:///x"):
        assert storage.url_of(text) is None
    assert storage.local_path(Path("file:///data/a%20b")) == Path("/data/a b")
    assert storage.local_path(Path("data/x")) == Path("data/x")
    assert storage.shown_address("ftp://me:secret@host/a@b") == "ftp://host/a@b"


def test_names_are_those_of_a_folder_with_the_same_files(tmp_path):
    files = ["b.png", "a/c.png", "a.png", "a/x.mp4", "a-b/d.jpg", ".hidden/e.png", "notes.txt", "out/f.png"]
    for name in files:
        path = tmp_path / "drives" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        storage.write(f"memory://drives/{name}", b"x")
    found = collect(["memory://drives"], Path("memory://drives/out"))
    local = collect([tmp_path / "drives"], tmp_path / "drives/out")
    assert [(item.name, item.is_video) for item in found] == [(item.name, item.is_video) for item in local]
    assert found[0].where.startswith("memory://drives/a")
    assert all(item.stored and item.stamp[0] == 1 for item in found)
    one = collect(["memory://drives/a/c.png"], tmp_path)
    assert [str(item.name) for item in one] == ["c"]
    globbed = collect(["memory://drives/a*/*.*"], tmp_path)
    assert sorted(str(item.name) for item in globbed) == ["a-b/d", "a/c", "a/x"]
    with pytest.raises(IccldError, match="is taken for results"):
        collect(["memory://drives/out"], Path("memory://drives/out"))
    with pytest.raises(IccldError, match="there is no storage nowhere://"):
        collect(["nowhere://drives"], tmp_path)


def test_workers_fit_their_nodes():
    nodes = [Node("a", "a", 16, 0), Node("b", "b", 32, 4), Node("c", "c", 0, 0)]
    assert usable_nodes(nodes, None) == usable_nodes(nodes, "cpu") == nodes[:2]
    assert usable_nodes(nodes, "auto") == nodes[1:2]  # a GPU's results are not a processor's
    assert usable_nodes(nodes[:1], "auto") == nodes[:1]
    with pytest.raises(IccldError, match="no node with a GPU"):
        usable_nodes(nodes[:1], "cuda")
    assert slots(nodes[1], "auto", None) == (4, 8, 1)
    assert slots(nodes[0], "cpu", None) == (1, 16, 0)
    assert slots(nodes[0], "cpu", 4) == (4, 4, 0)
    assert parts_for(Fleet(), 3, None, "out") == 24
    assert parts_for(Fleet(), 3, 5, "out") == 5  # of a run that goes on
    with pytest.raises(IccldError, match="out holds parts of 5, not of 7"):
        parts_for(Fleet(parts=7), 3, 5, "out")


def test_what_a_killed_worker_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    code = f"import tempfile; tempfile.gettempdir = lambda: {str(tmp_path)!r}\n"
    code += "from iccld_cli.fleet.scratch import Scratch\nimport os\ns = Scratch()\nprint(s.path)\n"
    code += "(s.path / 'x').write_text('left')\nimport sys; sys.stdout.flush(); os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    mine, other = scratch.Scratch(), scratch.Scratch()
    assert not left.exists() and mine.path.is_dir() and other.path.is_dir()
    mine.remove()
    assert other.path.is_dir()
    other.remove()
    assert not list(other.path.parent.iterdir())


def test_the_file_that_all_nodes_must_see_goes_with_its_folders(tmp_path):
    parts = tmp_path / "out/parts"
    with token_in(parts) as token:
        assert token.is_file() and token.parent == parts
    assert not (tmp_path / "out").exists()
    parts.mkdir(parents=True)
    (parts / ".fleet-0").touch()  # of a command that was killed
    with token_in(parts) as token:
        assert list(parts.iterdir()) == [token]
        (parts / "1-of-2").mkdir()
    assert [path.name for path in parts.iterdir()] == ["1-of-2"]
    with token_in(None) as token:
        assert token is None
