"""What holds for every official set: leftovers, archives kept beside what was unpacked, and the wrong option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import test_adverse
import test_bdd100k
import test_camvid
import test_carla
import test_cityscapes
import test_gta5
import test_idd
import test_mapillary
import test_synthia
import test_urbansyn_kitti
from official_sets import Official, check_refused, compare, lay_out, prepare

SETS: dict[str, Callable[[], Official]] = {
    "acdc": test_adverse.acdc,
    "bdd100k": lambda: test_bdd100k.bdd100k(False, True),
    "camvid": test_camvid.original,
    "carla": lambda: test_carla.recording(30, 11, 1, "rgba"),
    "cityscapes": lambda: test_cityscapes.cityscapes(True),
    "dark-zurich": lambda: test_adverse.dark_zurich("night"),
    "gta5": test_gta5.gta5,
    "idd": test_idd.idd,
    "kitti": test_urbansyn_kitti.kitti,
    "mapillary": lambda: test_mapillary.vistas("2.0", "2.0"),
    "synthia": test_synthia.synthia,
    "urbansyn": lambda: test_urbansyn_kitti.urbansyn("grey"),
}

# What file managers and archive tools of Windows and macOS leave in folders.
LEFTOVERS = ("Thumbs.db", "desktop.ini", ".DS_Store", "._0001.png", "notes.txt")


@pytest.fixture(params=sorted(SETS))
def official(request) -> Official:
    """Each set in turn."""
    return SETS[request.param]()


def put_down(official: Official, root: Path, *layouts: str) -> Path:
    """The same set in several layouts at once."""
    for layout in layouts:
        lay_out(official.archives, root, layout)
    return root


def test_leftovers_and_archives_beside_the_unpacked_folders(tmp_path, official):
    root = put_down(official, tmp_path / "raw", "merged", "packed")
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in LEFTOVERS:
            (folder / name).write_bytes(b"\0\1\2")
    macos = root / "__MACOSX"
    for path in [path for path in root.rglob("*.png") if path.name[0] != "."][:20]:
        twin = macos / path.relative_to(root).with_name("._" + path.name)
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(b"\0\5\x16\7")
    compare(prepare(official.option, root, tmp_path / "out", *official.settings), official.frames)


@pytest.mark.parametrize("name", sorted(set(SETS) - {"carla"}))
def test_archives_beside_folders_of_their_own(tmp_path, name):
    """Nothing may count twice. CARLA's recordings are told apart by their folders, so there it would be two drives."""
    official = SETS[name]()
    root = put_down(official, tmp_path / "raw", "apart", "packed")
    compare(prepare(official.option, root, tmp_path / "out", *official.settings), official.frames)


# Pairs whose folders look alike.
ALIKE = [
    ("cityscapes", "idd"),
    ("acdc", "dark-zurich"),
    ("dark-zurich", "acdc"),
    ("kitti", "mapillary"),
    ("mapillary", "kitti"),
    ("gta5", "bdd100k"),
    ("bdd100k", "gta5"),
    ("synthia", "urbansyn"),
    ("urbansyn", "carla"),
    ("camvid", "gta5"),
]


@pytest.mark.parametrize(("option", "given"), ALIKE)
def test_another_set_is_refused(tmp_path, option, given):
    root = put_down(SETS[given](), tmp_path / "raw", "merged")
    check_refused(prepare(option, root, tmp_path / "out"), "expected|no ")
