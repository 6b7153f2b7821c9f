"""The wheel works without a clone: what it holds is what the program needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, made without the network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=ROOT, capture_output=True)
    (path,) = folder.glob("iccld-*.whl")
    return path


def test_the_wheel_holds_what_is_not_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "iccld_cli"
    wanted = {
        p.relative_to(ROOT).as_posix()
        for p in package.rglob("*")
        if p.suffix in (".py", ".pyi", ".toml", ".html", ".css", ".js")
    }
    assert wanted <= names
    assert {
        "iccld_cli/py.typed",
        "iccld_cli/assets/iccld-small.safetensors",
        "iccld_cli/assets/iccld-small.md",
        "iccld_cli/assets/iccld-roads.safetensors",
        "iccld_cli/assets/iccld-roads.md",
        "iccld_cli/assets/iccld-free.safetensors",
        "iccld_cli/assets/iccld-free.md",
        "iccld_cli/assets/mobilenet-v2-imagenet.safetensors",
        "iccld_cli/assets/mobilenet-v2-imagenet.md",
        "iccld_cli/assets/efficientnet-lite0-imagenet.safetensors",
        "iccld_cli/assets/efficientnet-lite0-imagenet.md",
    } <= names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/"))}


def test_the_unpacked_wheel_finds_its_model(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import iccld_cli; from iccld_cli.inference.model import find_model; from iccld_cli.header import read_header; "
        "print(iccld_cli.__file__); print(find_model(None)); print(read_header(find_model(None)).classes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    program, model, classes = done.stdout.splitlines()
    assert Path(program).is_relative_to(tmp_path)
    assert Path(model).is_relative_to(tmp_path)
    assert classes.startswith("(0,")
