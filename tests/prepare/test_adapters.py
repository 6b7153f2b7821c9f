"""Every adapter on a tiny tree of the true layout and bit format, with golden trainIds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from raw_files import SHAPE, all_ids, grey, mat5, palette, photo, rgb, rgb16

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters import ADAPTERS
from iccld_cli.prepare.adapters.base import Adapter
from iccld_cli.prepare.adapters.camvid import segnet_split
from iccld_cli.prepare.adapters.mapillary import class_of
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree

I = 255  # noqa: E741 - one letter keeps the golden rows readable
CITYSCAPES = [
    I, I, I, I, I, I, I, 0, 1, I, I, 2, 3, 4, I, I, I, 5, I, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, I, I, 16, 17,
    18,
]  # fmt: skip
TRAIN_IDS = list(range(19))


def run(name: str, root: Path, out: Path, **options: str) -> PreparedDataset:
    """Prepare a tree with an adapter, in this process."""
    adapter: Adapter = ADAPTERS[name](FolderTree(root), options)
    return prepare(adapter, out, name, PrepareOptions(workers=1))[0]


def labels(data: PreparedDataset) -> dict[str, list[int] | None]:
    """The first row of each frame's label, by the image's path."""
    found = {}
    for frame in data.iter_frames():
        label = None if frame.label is None else data.read_label(frame)
        if label is not None:
            assert (label == label[0]).all()
        found[frame.image] = None if label is None else label[0].tolist()
    return found


def padded(row: list[int]) -> list[int]:
    """A golden row as wide as the tiny frames."""
    return row + [row[-1]] * (SHAPE[1] - len(row))


def test_gta5_palette_and_official_split(tmp_path):
    root = tmp_path / "raw"
    for number in (1, 2, 3):
        photo(root / f"images/{number:05d}.png", number)
        palette(root / f"labels/{number:05d}.png", all_ids(list(range(34))))
    (root / "split.mat").write_bytes(mat5({"trainIds": [1], "valIds": [2], "testIds": [3]}))
    data = run("gta5", root, tmp_path / "out")
    assert labels(data) == {
        "images/test/00003.png": padded(CITYSCAPES),
        "images/train/00001.png": padded(CITYSCAPES),
        "images/val/00002.png": padded(CITYSCAPES),
    }
    assert data.info.classes_known is not None
    assert len(data.info.classes_known) == 19


def test_gta5_numbered_parts_without_split(tmp_path):
    root = tmp_path / "raw"
    photo(root / "01_images/images/00007.png")
    palette(root / "01_labels/labels/00007.png", all_ids([7]))
    photo(root / "02_images/00008.png", 1)
    palette(root / "02_labels/00008.png", all_ids([26]))
    assert labels(run("gta5", root, tmp_path / "out")) == {
        "images/train/00007.png": padded([0]),
        "images/train/00008.png": padded([13]),
    }


SYNTHIA = [I, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, I, I, 6, 9, 12, 14, 15, 16, 3, I]


def test_synthia_reads_sixteen_bits(tmp_path):
    root = tmp_path / "RAND_CITYSCAPES"
    photo(root / "RGB/0000000.png")
    ids = all_ids(list(range(23)))
    rgb16(root / "GT/LABELS/0000000.png", ids, ids * 300)
    data = run("synthia", root, tmp_path / "out")
    assert labels(data) == {"images/train/0000000.png": padded(SYNTHIA)}
    assert set(data.info.label_space.names) - set(data.info.classes_known or ()) == {"terrain", "truck", "train"}


def test_synthia_13_classes(tmp_path):
    root = tmp_path / "RAND_CITYSCAPES"
    photo(root / "RGB/0000000.png")
    rgb16(root / "GT/LABELS/0000000.png", all_ids(list(range(23))), all_ids([0]))
    data = run("synthia", root, tmp_path / "out", classes="13")
    row = [I if value in (3, 4, 5) else value for value in SYNTHIA]
    assert labels(data) == {"images/train/0000000.png": padded(row)}
    assert len(data.info.classes_known or ()) == 13


def test_cityscapes_all_splits(tmp_path):
    root = tmp_path / "cityscapes"
    for seed, split in enumerate(("train", "val", "test", "train_extra")):
        photo(root / f"leftImg8bit/{split}/ulm/ulm_000000_000019_leftImg8bit.png", seed)
    ids = all_ids([*range(34), 255])
    grey(root / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png", ids)
    grey(root / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelTrainIds.png", all_ids([*TRAIN_IDS, 255]))
    grey(root / "gtFine/test/ulm/ulm_000000_000019_gtFine_labelIds.png", all_ids([3]))
    grey(root / "gtCoarse/train_extra/ulm/ulm_000000_000019_gtCoarse_labelIds.png", ids)
    name = "ulm/ulm_000000_000019.png"
    assert labels(run("cityscapes", root, tmp_path / "out")) == {
        f"images/train/{name}": padded([*CITYSCAPES, I]),
        f"images/val/{name}": padded([*TRAIN_IDS, I]),
        f"images/test/{name}": None,
        f"images/extra/{name}": padded([*CITYSCAPES, I]),
    }


def test_cityscapes_images_alone(tmp_path):
    root = tmp_path / "cityscapes"
    photo(root / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    data = run("cityscapes", root, tmp_path / "out")
    assert labels(data) == {"images/train/ulm/ulm_000000_000019.png": None}
    assert data.info.classes_known is None


def test_dark_zurich(tmp_path):
    root = tmp_path / "dz"
    for seed, where in enumerate(("train/night/GOPR0351", "train/day/GOPR0345", "val/night/GOPR0356", "val_ref/day/G")):
        photo(root / f"rgb_anon/{where}/x_frame_000001_rgb_anon.png", seed)
    grey(root / "gt/val/night/GOPR0356/x_frame_000001_gt_labelIds.png", all_ids([*range(34)]))
    assert labels(run("dark-zurich", root, tmp_path / "out")) == {
        "images/train/night/GOPR0351/x_frame_000001.png": None,
        "images/val/night/GOPR0356/x_frame_000001.png": padded(CITYSCAPES),
    }
    everything = run("dark-zurich", root, tmp_path / "all", condition="all")
    assert everything.info.splits == {"train": 2, "val": 1}


def test_acdc(tmp_path):
    root = tmp_path / "acdc"
    for seed, where in enumerate(("fog/train/GP01", "snow/val/GP02", "rain/test/GP03", "fog/train_ref/GP01")):
        photo(root / f"rgb_anon_trainvaltest/rgb_anon/{where}/x_frame_000001_rgb_anon.png", seed)
    grey(root / "gt_trainval/gt/fog/train/GP01/x_frame_000001_gt_labelTrainIds.png", all_ids([*TRAIN_IDS, 255]))
    grey(root / "gt_trainval/gt/snow/val/GP02/x_frame_000001_gt_labelIds.png", all_ids([*range(34)]))
    assert labels(run("acdc", root, tmp_path / "out")) == {
        "images/train/fog/GP01/x_frame_000001.png": padded([*TRAIN_IDS, I]),
        "images/val/snow/GP02/x_frame_000001.png": padded(CITYSCAPES),
        "images/test/rain/GP03/x_frame_000001.png": None,
    }


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/10k/{}/0004a4c0.jpg", "labels/sem_seg/masks/{}/0004a4c0.png"),
        ("seg/images/{}/0004a4c0.jpg", "seg/labels/{}/0004a4c0_train_id.png"),
    ],
)
def test_bdd100k(tmp_path, images, masks):
    root = tmp_path / "bdd100k"
    for seed, split in enumerate(("train", "val", "test")):
        photo(root / images.format(split), seed)
        if split != "test":
            grey(root / masks.format(split), all_ids([*TRAIN_IDS, 255]))
    assert labels(run("bdd100k", root, tmp_path / "out")) == {
        "images/test/0004a4c0.jpg": None,
        "images/train/0004a4c0.jpg": padded([*TRAIN_IDS, I]),
        "images/val/0004a4c0.jpg": padded([*TRAIN_IDS, I]),
    }


def test_kitti(tmp_path):
    root = tmp_path / "data_semantics"
    photo(root / "training/image_2/000000_10.png")
    grey(root / "training/semantic/000000_10.png", all_ids([*range(34)]))
    photo(root / "testing/image_2/000000_10.png", 1)
    assert labels(run("kitti", root, tmp_path / "out")) == {
        "images/test/000000_10.png": None,
        "images/train/000000_10.png": padded(CITYSCAPES),
    }


def test_urbansyn(tmp_path):
    root = tmp_path / "urbansyn"
    photo(root / "rgb/rgb_0001.png")
    grey(root / "ss/ss_0001.png", all_ids([*range(20)]))
    assert labels(run("urbansyn", root, tmp_path / "out")) == {"images/train/rgb_0001.png": padded([*TRAIN_IDS, I])}


MAPILLARY_12 = ["construction--flat--road", "nature--sky", "object--vehicle--on-rails", "void--unlabeled"]
MAPILLARY_20 = ["animal--bird", "human--person--individual", "object--traffic-light--pedestrians", "marking-only--x"]


@pytest.mark.parametrize(
    ("version", "folder", "names", "golden"),
    [
        ("1.2", "labels", MAPILLARY_12, [0, 10, 16, I]),
        ("1.2", "v1.2/labels", MAPILLARY_12, [0, 10, 16, I]),
        ("2.0", "v2.0/labels", MAPILLARY_20, [I, 11, 6, 0]),
    ],
)
def test_mapillary(tmp_path, version, folder, names, golden):
    root = tmp_path / "vistas"
    photo(root / "training/images/a_B-1.jpg")
    palette(root / f"training/{folder}/a_B-1.png", all_ids([*range(4)]))
    photo(root / "validation/images/c.jpg", 1)
    palette(root / f"validation/{folder}/c.png", all_ids([*range(4)]))
    photo(root / "testing/images/d.jpg", 2)
    config = {"labels": [{"name": name, "readable": name} for name in names]}
    (root / f"config_v{version}.json").write_text(json.dumps(config))
    data = run("mapillary", root, tmp_path / "out")
    assert labels(data) == {
        "images/test/d.jpg": None,
        "images/train/a_B-1.jpg": padded(golden),
        "images/val/c.jpg": padded(golden),
    }
    assert data.info.source["options"] == {"version": version, "classes": "definitions"}


def test_mapillary_category_names():
    assert class_of("object--traffic-sign--back") is None
    assert class_of("object--traffic-sign--front") == "traffic sign"
    assert class_of("human--rider--bicyclist") == "rider"
    assert class_of("object--support--pole-group") is None
    assert class_of("marking--discrete--arrow--left") == "road"


def test_mapillary_without_its_config(tmp_path):
    photo(tmp_path / "training/images/a.jpg")
    palette(tmp_path / "training/labels/a.png", all_ids([0]))
    with pytest.raises(IccldError, match=r"config_v1\.2\.json"):
        ADAPTERS["mapillary"](FolderTree(tmp_path))


IDD = [0, I, I, 1, I, 9, 11, I, 12, 17, 18, I, 13, 14, 15, I, I, 16, I, I, 3, 4, I, I, 7, 6, 5, I, I, 2, I, I, 8, 10]
IDD_LEVEL3 = [0, I, 1, 9, 11, 12, 17, 18, I, 13, 14, 15, I, I, 3, 4, I, I, 7, 6, 5, I, 2, I, 8, 10]


@pytest.mark.parametrize(
    ("kind", "ids", "golden"),
    [
        ("labelids.png", [*range(40), 255], [*IDD, I, I, I, I, I, I]),
        ("labellevel3Ids.png", [*range(26), 255], [*IDD_LEVEL3, I]),
        ("labelcsTrainIds.png", [*range(19), 255], [*TRAIN_IDS, I]),
    ],
)
def test_idd_label_images(tmp_path, kind, ids, golden):
    root = tmp_path / "IDD_Segmentation"
    photo(root / "leftImg8bit/train/0/005506_leftImg8bit.png")
    grey(root / f"gtFine/train/0/005506_gtFine_{kind}", all_ids(ids[:40]))
    row = labels(run("idd", root, tmp_path / "out"))["images/train/0/005506.png"]
    assert row == padded(golden[:40])


def test_idd_polygons(tmp_path):
    root = tmp_path / "IDD_Segmentation"
    photo(root / "leftImg8bit/val/0/1_leftImg8bit.jpg")
    height, width = SHAPE

    def box(left: int, right: int) -> list[list[float]]:
        return [[left, 0], [right, 0], [right, height], [left, height]]

    objects = [
        {"label": "road", "polygon": box(0, width)},
        {"label": "autorickshaw", "polygon": box(10, 14)},
        {"label": "cargroup", "polygon": box(20, 24)},
        {"label": "bus", "polygon": box(30, 34), "deleted": 1},
    ]
    path = root / "gtFine/val/0/1_gtFine_polygons.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects}))
    row = labels(run("idd", root, tmp_path / "out"))["images/val/0/1.jpg"]
    assert row == [I if 10 <= x <= 14 else 13 if 20 <= x <= 24 else 0 for x in range(width)]


def test_idd_lite_keeps_its_seven_classes(tmp_path):
    root = tmp_path / "idd20k_lite"
    photo(root / "leftImg8bit/train/3/008001_image.jpg")
    grey(root / "gtFine/train/3/008001_label.png", all_ids([*range(7), 255]))
    photo(root / "leftImg8bit/test/4/008002_image.jpg", 1)
    data = run("idd", root, tmp_path / "out")
    assert labels(data) == {
        "images/test/4/008002.jpg": None,
        "images/train/3/008001.jpg": padded([*range(7), I]),
    }
    assert data.info.label_space.name == "idd-lite7"
    assert len(data.info.classes_known or ()) == 7


CAMVID = [10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12, I]


def test_camvid_segnet_layout(tmp_path):
    root = tmp_path / "CamVid"
    for seed, split in enumerate(("train", "val", "test")):
        photo(root / split / "0001TP_006690.png", seed)
        grey(root / f"{split}annot/0001TP_006690.png", all_ids([*range(12)]))
    data = run("camvid", root, tmp_path / "out")
    assert labels(data) == {f"images/{s}/0001TP_006690.png": padded(CAMVID) for s in ("test", "train", "val")}
    assert data.info.classes_known == (
        *("road", "sidewalk", "building", "fence", "pole", "traffic sign"),
        *("vegetation", "sky", "person", "rider", "car"),
    )
    covers = json.loads((data.root / "dataset.json").read_text())["covers"]
    assert (covers["truck"], covers["traffic light"], covers["bicycle"]) == ("car", "traffic sign", "rider")
    assert set(covers) | set(data.info.classes_known) == set(data.info.label_space.names)


CAMVID_32 = {
    (64, 128, 64): 11, (192, 0, 128): 2, (0, 128, 192): 12, (0, 128, 64): 2, (128, 0, 0): 2, (64, 0, 128): 13,
    (64, 0, 192): 11, (192, 128, 64): 11, (192, 192, 128): 5, (64, 64, 128): 4, (128, 0, 192): 0, (192, 0, 64): 0,
    (128, 128, 64): 7, (192, 0, 192): 12, (128, 64, 64): 13, (64, 192, 128): 1, (64, 64, 0): 11, (128, 64, 128): 0,
    (128, 128, 192): 1, (0, 0, 192): 1, (192, 128, 128): 7, (128, 128, 128): 10, (64, 128, 192): 13, (0, 0, 64): 5,
    (0, 64, 64): 7, (192, 64, 128): 13, (128, 128, 0): 8, (192, 128, 192): 13, (64, 0, 64): 2, (192, 192, 0): 8,
    (0, 0, 0): I, (64, 192, 0): 2,
}  # fmt: skip


@pytest.mark.parametrize("sorted_layout", [False, True])
def test_camvid_original_colours(tmp_path, sorted_layout):
    root = tmp_path / "CamVid"
    colours = np.array(list(CAMVID_32), np.uint8)[all_ids([*range(32)])]
    images, masks = ("val", "val_labels") if sorted_layout else ("701_StillsRaw_full", "LabeledApproved_full")
    photo(root / images / "0016E5_07961.png")
    rgb(root / masks / "0016E5_07961_L.png", colours)
    if sorted_layout:
        photo(root / "train/0006R0_f00930.png", 1)
        rgb(root / "train_labels/0006R0_f00930_L.png", colours)
    found = labels(run("camvid", root, tmp_path / "out"))
    assert found["images/val/0016E5_07961.png"] == padded(list(CAMVID_32.values()))


def test_camvid_split_by_name():
    names = ("0001TP_008520", "0001TP_008550", "0006R0_f03930", "0016E5_07959", "0016E5_08640", "Seq05VD_f00000")
    assert [segnet_split(name) for name in names] == ["train", "test", "train", "val", "train", "test"]


LYFT = [10, 2, 4, I, 11, 5, 0, 0, 1, 8, 13, 3, 7]
CARLA_10 = [I, 2, 4, I, 11, 5, 0, 0, 1, 8, 13, 3, 7, 10, I, I, I, I, 6, I, I, I, 9]
CARLA_14 = [I, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, I, I, I, I, 0, I, I, I, I]


def carla_label(ids: list[int], road: int) -> np.ndarray:
    """Rows 0..29 hold all ids, rows 30..57 the road, rows 58..59 the ids again (where a Lyft car's bonnet is)."""
    label = np.zeros((60, 40, 3), np.uint8)
    label[..., 0] = road
    label[:30, :, 0] = label[58:, :, 0] = all_ids(ids, (1, 40))
    label[..., 1:] = 77  # instance numbers, to be passed over
    return label


@pytest.mark.parametrize(
    ("folders", "ids", "road", "golden", "table"),
    [
        (("CameraRGB", "CameraSeg"), range(13), 7, LYFT, "lyft"),
        (("rgb", "semantic"), range(23), 7, CARLA_10, "0.9.10"),
        (("rgb", "instance"), range(29), 1, CARLA_14, "0.9.14"),
        (("CameraRGB", "CameraSeg"), range(29), 1, CARLA_14, "0.9.14"),
    ],
)
def test_carla_tables_are_told_apart(tmp_path, folders, ids, road, golden, table):
    root = tmp_path / "carla"
    photo(root / folders[0] / "000_0021.jpg", shape=(60, 40))
    rgb(root / folders[1] / "000_0021.png", carla_label(list(ids), road))
    data = run("carla", root, tmp_path / "out")
    assert data.info.source["options"] == {"ids": table}
    label = data.read_label(data.frames("train")[0])
    assert label[0].tolist() == padded(golden)
    bonnet = [I if value == 13 else value for value in padded(golden)] if table == "lyft" else padded(golden)
    assert label[-1].tolist() == bonnet
    assert (label[30:50] == 0).all()


def test_carla_several_cameras_get_names_of_their_own(tmp_path):
    for seed, camera in enumerate(("front", "left")):
        photo(tmp_path / f"raw/{camera}/rgb/0001.png", seed, (60, 40))
        rgb(tmp_path / f"raw/{camera}/semantic/0001.png", carla_label([1, 11], 1))
    data = run("carla", tmp_path / "raw", tmp_path / "out", ids="0.9.14")
    assert [f.image for f in data.frames("train")] == ["images/train/front/0001.png", "images/train/left/0001.png"]


def test_carla_colours_instead_of_tags(tmp_path):
    photo(tmp_path / "rgb/0001.png", 0, (60, 40))
    rgb(tmp_path / "semantic/0001.png", np.full((60, 40, 3), (128, 64, 128)))
    with pytest.raises(IccldError, match=r"carla\.ids"):
        ADAPTERS["carla"](FolderTree(tmp_path))


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_a_wrong_folder_is_named(tmp_path, name):
    photo(tmp_path / "holiday/beach.jpg")
    with pytest.raises(IccldError, match="expected") as caught:
        prepare(ADAPTERS[name](FolderTree(tmp_path)), tmp_path / "out", name, PrepareOptions(workers=1))
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_option_and_value():
    with pytest.raises(IccldError, match="did you mean 'classes'"):
        ADAPTERS["synthia"](FolderTree("."), {"clases": "16"})
    with pytest.raises(IccldError, match="cannot be '19'"):
        ADAPTERS["synthia"](FolderTree("."), {"classes": "19"})
