"""CARLA recordings: the Lyft challenge (0.8), own ones of 0.9.10 to 0.9.13, of 0.9.14 and later, and of 0.10."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest
from official_files import IGNORED, mapped, painted, photo, rgb, tiled
from official_sets import LAYOUTS, Archive, Official, Truth, check, check_refused, lay_out, prepare

# Tags 0..12 of 0.8: a public description of the recordings of the time ("0 = None" to "12 = TrafficSigns"). In the Lyft
# frames None is the sky, and traffic lights are TrafficSigns.
LYFT = {0: 10, 1: 2, 2: 4, 3: 255, 4: 11, 5: 5, 6: 0, 7: 0, 8: 1, 9: 8, 10: 13, 11: 3, 12: 7}

# 0.9.10 to 0.9.13, tags 0..22: LibCarla/source/carla/image/CityScapesPalette.h of the time, comments
# "unlabeled = 0u" to "terrain = 22u". The sky has a tag of its own, traffic light and sign are apart.
TAGS_0_9_10 = {1: 2, 2: 4, 4: 11, 5: 5, 6: 0, 7: 0, 8: 1, 9: 8, 10: 13, 11: 3, 12: 7, 13: 10, 18: 6, 22: 9}

# 0.9.14 and later, tags 0..28: carla-simulator/carla LibCarla/source/carla/rpc/ObjectLabel.h, 1 Roads to 19 Bicycle in
# the order of Cityscapes; 24 RoadLines. Unreal 5 (0.10) adds 29 Rock.
TAGS_0_9_14 = {**{tag: tag - 1 for tag in range(1, 20)}, 24: 0}

# CityScapesPalette.h, for images that were saved in colours.
PAINT = {
    0: (0, 0, 0), 1: (128, 64, 128), 2: (244, 35, 232), 3: (70, 70, 70), 4: (102, 102, 156), 5: (190, 153, 153),
    6: (153, 153, 153), 7: (250, 170, 30), 8: (220, 220, 0), 9: (107, 142, 35), 10: (152, 251, 152),
    11: (70, 130, 180), 12: (220, 20, 60), 13: (255, 0, 0), 14: (0, 0, 142), 15: (0, 0, 70), 16: (0, 60, 100),
    17: (0, 80, 100), 18: (0, 0, 230), 19: (119, 11, 32), 20: (110, 190, 160), 21: (170, 120, 50), 22: (55, 90, 80),
    23: (45, 60, 150), 24: (157, 234, 50), 25: (81, 0, 81), 26: (150, 100, 100), 27: (230, 150, 140),
    28: (180, 165, 180), 29: (180, 130, 70),
}  # fmt: skip

SHAPE = (60, 48)


def scene(tags: int, sky: int, road: int, shape: tuple[int, int] = SHAPE, start: int = 0) -> np.ndarray:
    """Sky above, road below, all tags in a band between, as a camera on a car sees it."""
    height = shape[0]
    ids = np.full(shape, road, np.int32)
    ids[: height // 4] = sky
    ids[height // 4 : height // 2] = tiled(range(tags), (height // 2 - height // 4, shape[1]), start)
    return ids


def raw_image(ids: np.ndarray, kind: str) -> bytes:
    """The tag in red: alone, with an opaque alpha channel (save_to_disk), or with the instance beside it."""
    other = ids * 0
    if kind == "instance":
        return rgb(np.stack([ids, ids * 7 % 256, ids * 3 % 256, other + 255], -1))
    return rgb(np.stack([ids, other, other, other + 255][: 4 if kind == "rgba" else 3], -1))


@functools.lru_cache
def recording(tags: int, sky: int, road: int, kind: str) -> Official:
    """Two cameras of an own recording, in folders of the kind that scripts make."""
    table = TAGS_0_9_10 if tags == 23 else TAGS_0_9_14
    names = {"instance": ("rgb", "instance"), "rgba": ("rgb", "semantic"), "rgb": ("CameraRGB", "CameraSeg")}[kind]
    files: dict[str, bytes] = {}
    frames: dict[tuple[str, str], Truth | None] = {}
    for seed in range(4):
        ids = scene(tags, sky, road, start=5 * seed)
        camera, name = ("front", "left")[seed % 2], f"{seed:08d}"
        files[f"{camera}/{names[0]}/{name}.png"] = photo(seed, SHAPE)
        files[f"{camera}/{names[1]}/{name}.png"] = raw_image(ids, kind)
        frames["train", name] = Truth(ids, mapped(ids, table))
    return Official("carla", [Archive("recording.zip", files)], frames)


@pytest.mark.parametrize(
    ("tags", "sky", "road", "kind"),
    [
        pytest.param(23, 13, 7, "rgba", id="0.9.10"),
        pytest.param(23, 13, 7, "rgb", id="0.9.13"),
        pytest.param(29, 11, 1, "rgba", id="0.9.14"),
        pytest.param(29, 11, 1, "instance", id="0.9.15-instance"),
        pytest.param(30, 11, 1, "rgba", id="0.10"),
        pytest.param(30, 11, 1, "instance", id="0.10-instance"),
    ],
)
def test_own_recordings(tmp_path, tags, sky, road, kind):
    """The table is told by the frames, without a setting."""
    check(f"carla {tags} {kind}", recording(tags, sky, road, kind), "merged", tmp_path)


@pytest.mark.parametrize(("tags", "sky", "road", "table"), [(23, 13, 7, "0.9.10"), (30, 11, 1, "0.9.14")])
def test_the_table_can_be_named(tmp_path, tags, sky, road, table):
    official = recording(tags, sky, road, "rgba")
    named = Official("carla", official.archives, official.frames, settings=("--set", f"carla.ids={table}"))
    check(f"carla named {table}", named, "merged", tmp_path)


# lyft_training_data.tar.gz: Train/CameraRGB and Train/CameraSeg, 800x600 RGB PNG; carla-capture-20180528.zip, which
# many challengers added, has the two folders at its root. The recording car's bonnet fills rows 498..599 as vehicle
# (a public challenger's code: IMAGE_BOTTOM_HOOD = 496).
LYFT_SHAPE, BONNET = (600, 800), 498


@functools.lru_cache
def lyft() -> Official:
    """Both archives, one frame each."""
    archives = []
    frames: dict[tuple[str, str], Truth | None] = {}
    parts = [("lyft_training_data.tar.gz", "Train/", "F61-100"), ("carla-capture-20180528.zip", "", "000123")]
    for seed, (archive, top, name) in enumerate(parts):
        ids = scene(13, 0, 7, LYFT_SHAPE, seed)
        ids[400:430, 100:200] = 10  # a car on the road
        ids[BONNET:, 100:700] = 10
        image = enlarged(photo(seed, (75, 100)))
        train_ids = mapped(ids, LYFT)
        train_ids[BONNET:][ids[BONNET:] == 10] = IGNORED
        files = {f"{top}CameraRGB/{name}.png": image, f"{top}CameraSeg/{name}.png": raw_image(ids, "rgb")}
        archives.append(Archive(archive, files))
        frames["train", name] = Truth(ids, train_ids)
    return Official("carla", archives, frames, same_names=False)


def enlarged(small: bytes) -> bytes:
    """A 600x800 image that compresses well: a small one, its pixels eight times as large."""
    pixels = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR_RGB)
    return rgb(pixels.repeat(8, 0).repeat(8, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_lyft_challenge(tmp_path, layout):
    check("lyft", lyft(), layout, tmp_path)


@pytest.mark.parametrize("tags", [29, 30])
def test_images_saved_in_colours_are_refused(tmp_path, tags):
    official = recording(tags, 11, 1, "rgba")
    files = dict(official.archives[0].files)
    for path in files:
        if "/semantic/" in path:
            files[path] = painted(scene(tags, 11, 1), PAINT)
    root = lay_out([Archive("recording.zip", files)], tmp_path / "raw", "merged")
    check_refused(prepare("carla", root, tmp_path / "out"), "raw|colou?r")


def test_a_tag_beyond_all_versions_is_refused(tmp_path):
    official = recording(30, 11, 1, "rgba")
    files = dict(official.archives[0].files)
    path = next(path for path in files if "/semantic/" in path)
    files[path] = raw_image(scene(31, 11, 1), "rgba")
    root = lay_out([Archive("recording.zip", files)], tmp_path / "raw", "merged")
    check_refused(prepare("carla", root, tmp_path / "out", "--set", "carla.ids=0.9.14"), r"\b30\b")
