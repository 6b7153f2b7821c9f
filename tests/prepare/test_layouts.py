"""Official sets however they were unpacked: nothing is lost in silence, known-bad frames are left out, others not."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from raw_files import SHAPE, all_ids, grey, palette, photo, rgb, rgb16

from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters import ADAPTERS
from iccld_cli.prepare.adapters.mapillary import field_class_of
from iccld_cli.prepare.archives import open_tree
from iccld_cli.prepare.inspect import own_warnings
from iccld_cli.prepare.prepare import BadFilesError, PrepareOptions, prepare
from iccld_cli.prepare.sources import open_set


def run(name: str, root: Path, out: Path, labelled: bool = True, **options: str) -> PreparedDataset:
    """Prepare what lies at a path, as the command does."""
    tree = open_tree(root, out)
    return prepare(ADAPTERS[name](tree, options, labelled), out, name, PrepareOptions(workers=1))[0]


def cityscapes(parts: Path) -> None:
    """The four downloads, unpacked side by side."""
    frames = {"train": "ulm/ulm_000000_000019", "val": "bonn/bonn_000001_000019", "test": "bonn/bonn_000002_000019"}
    for seed, (split, frame) in enumerate(frames.items()):
        photo(parts / f"leftImg8bit_trainvaltest/leftImg8bit/{split}/{frame}_leftImg8bit.png", seed)
        grey(parts / f"gtFine_trainvaltest/gtFine/{split}/{frame}_gtFine_labelIds.png", all_ids([7, 26]))
    extra = "train_extra/nuremberg/nuremberg_000000_000001"
    photo(parts / f"leftImg8bit_trainextra/leftImg8bit/{extra}_leftImg8bit.png", 9)
    grey(parts / f"gtCoarse/gtCoarse/{extra}_gtCoarse_labelIds.png", all_ids([23]))


def dark_zurich(parts: Path) -> None:
    """The three downloads, unpacked side by side."""
    for seed, split in enumerate(("train", "val", "test")):
        name = f"{split}/night/GOPR0356/GOPR0356_frame_00000{seed}"
        photo(parts / f"Dark_Zurich_{split}_anon/rgb_anon/{name}_rgb_anon.png", seed)
    grey(parts / "Dark_Zurich_val_anon/gt/val/night/GOPR0356/GOPR0356_frame_000001_gt_labelIds.png", all_ids([7, 26]))


def bdd100k(parts: Path) -> None:
    """Today's four downloads, unpacked side by side."""
    for seed, split in enumerate(("train", "val", "test")):
        photo(parts / f"10k_images_{split}/bdd100k/images/10k/{split}/0004a4c0-d4dff0a{seed}.jpg", seed)
        if split != "test":
            where = parts / f"bdd100k_sem_seg_labels_trainval/bdd100k/labels/sem_seg/masks/{split}"
            grey(where / f"0004a4c0-d4dff0a{seed}.png", all_ids([0, 13, 255]))


def idd(parts: Path) -> None:
    """Both parts, unpacked side by side."""
    for part, split, frame in (
        ("IDD_Segmentation", "train", "0/005506_leftImg8bit.png"),
        ("idd20kII", "train", "201/frame0029_leftImg8bit.jpg"),
        ("idd20kII", "val", "119/frame1229_leftImg8bit.jpg"),
    ):
        photo(parts / part / part / "leftImg8bit" / split / frame, len(frame) + len(split))
        path = parts / part / part / "gtFine" / split / frame.replace("_leftImg8bit", "_gtFine_polygons")
        polygons(path.with_suffix(".json"), ["road"])


def polygons(path: Path, names: list[str]) -> None:
    """A file of boxes beside each other, one for each name."""
    height, width = SHAPE
    step = width // len(names)
    boxes = [
        {"label": n, "polygon": [[i * step, 0], [i * step + step, 0], [i * step + step, height], [i * step, height]]}
        for i, n in enumerate(names)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgWidth": width, "imgHeight": height, "objects": boxes}))


SETS = {
    "cityscapes": (cityscapes, {"extra": 1, "test": 1, "train": 1, "val": 1}, 3),
    "dark-zurich": (dark_zurich, {"test": 1, "train": 1, "val": 1}, 1),
    "bdd100k": (bdd100k, {"test": 1, "train": 1, "val": 1}, 2),
    "idd": (idd, {"train": 2, "val": 1}, 3),
}


def pack(folder: Path, archive: Path) -> None:
    """The files of a folder as a zip or a compressed tar file."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive, "w:gz") as tar:
            for child in sorted(folder.iterdir()):
                tar.add(child, child.name)
        return
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.write(file, file.relative_to(folder))


def arrange(parts: Path, root: Path, how: str, ending: str) -> None:
    """Downloads as people keep them."""
    for number, part in enumerate(sorted(parts.iterdir())):
        packed = how == "packed" or (how == "mixed" and number % 2)
        if packed:
            pack(part, root / f"{part.name}{ending}")
        elif how == "deep":
            pack(part, root / "downloads" / f"{part.name}{ending}") if number % 2 else shutil.copytree(
                part, root / "unpacked" / part.name / "again"
            )
        else:
            shutil.copytree(part, root if how == "one" else root / part.name, dirs_exist_ok=True)
        if how == "both":
            pack(part, root / f"{part.name}{ending}")


@pytest.mark.parametrize("how", ["packed", "own folders", "one", "mixed", "deep", "both"])
@pytest.mark.parametrize("name", list(SETS))
def test_all_parts_are_taken_however_they_lie(tmp_path, name, how):
    make, splits, labelled = SETS[name]
    make(tmp_path / "parts")
    arrange(tmp_path / "parts", tmp_path / "raw", how, ".tar.gz" if name == "idd" else ".zip")
    (tmp_path / "raw/leftImg8bit/train").mkdir(parents=True, exist_ok=True)
    (tmp_path / "raw/leftImg8bit/train/Thumbs.db").write_bytes(b"x")
    (tmp_path / "raw/leftImg8bit/train/readme.txt").write_bytes(b"x")
    data = run(name, tmp_path / "raw", tmp_path / "out")
    assert data.info.splits == splits
    assert data.info.extra["labelled"] == labelled
    copies = [text for text in data.info.extra["notices"] if "more than once" in text]
    assert len(copies) == (how == "both")


def gta(root: Path, numbers: list[int]) -> Path:
    """Frames of GTA5 with all its ids."""
    for number in numbers:
        photo(root / f"images/{number:05d}.png", number)
        palette(root / f"labels/{number:05d}.png", all_ids(list(range(35))))
    return root


def test_known_bad_frames_are_left_out_with_one_line_and_named(tmp_path):
    root = gta(tmp_path / "raw", [1, 15188, 20800, 20801, 20860, 20861])
    photo(root / "images/20801.png", 0, (9, 40))
    photo(root / "images/20860.png", 0, (9, 40))
    shutil.copy(photo(root / "x.png", 0, (4, 4)), root / "images/15188.png")
    data = run("gta5", root, tmp_path / "out")
    assert [frame.image[-9:-4] for frame in data.frames("train")] == ["00001", "20800", "20861"]
    known = json.loads((data.root / "dataset.json").read_text())["known_bad"]
    assert [entry["file"][-9:-4] for entry in known] == ["15188", "20801", "20860"]
    (line,) = [text for text in own_warnings(data.info) if "known to be bad" in text]
    assert "3 frames" in line
    assert "2: has a label of another size" in line
    images = run("gta5", root, tmp_path / "images", labelled=False)
    assert images.info.splits == {"train": 5}


def test_other_bad_frames_still_stop_the_run(tmp_path):
    root = gta(tmp_path / "raw", [1, 20861])
    photo(root / "images/20861.png", 0, (9, 40))
    with pytest.raises(BadFilesError, match=r"20861\.png is 40x8, its image is 40x9"):
        run("gta5", root, tmp_path / "out")


def test_what_is_missing_is_asked_for(tmp_path):
    notices = run("gta5", gta(tmp_path / "gta", list(range(1, 2501, 200))), tmp_path / "a").info.extra["notices"]
    assert notices == ["13 of 24,966 frames: are 01_images.zip to 10_images.zip missing?"]
    adapter = ADAPTERS["gta5"](open_tree(tmp_path / "gta", tmp_path))
    adapter.find().images = {("train", f"{n:05d}"): [] for n in [*range(1, 12501), *range(17501, 24967)]}
    assert adapter.difference({}) == "19,966 of 24,966 frames: are 06_images.zip to 07_images.zip missing?"
    adapter.find().images = {("train", f"{n:05d}"): [] for n in range(1, 24967)}
    assert adapter.difference({}) == ""
    cityscapes(tmp_path / "city")
    adapter = ADAPTERS["cityscapes"](open_tree(tmp_path / "city", tmp_path))
    full = {"train": 2975, "val": 500, "test": 1525}
    assert adapter.difference(full) == ""
    assert adapter.difference(full | {"extra": 19998}) == ""
    assert adapter.difference(full | {"extra": 3}) == (
        "extra 3 of 19,998 frames: is leftImg8bit_trainextra.zip missing or incomplete?"
    )
    dark_zurich(tmp_path / "dz")
    night = ADAPTERS["dark-zurich"](open_tree(tmp_path / "dz", tmp_path))
    assert night.difference({"train": 2416, "val": 50, "test": 151}) == ""
    assert "train 2,416 of 8,377" in ADAPTERS["dark-zurich"](
        open_tree(tmp_path / "dz", tmp_path), {"condition": "all"}
    ).difference({"train": 2416, "val": 50, "test": 151})
    idd(tmp_path / "idd")
    shutil.rmtree(tmp_path / "idd/idd20kII")
    assert "is part II (idd-20k-II.tar.gz) missing?" in " ".join(
        run("idd", tmp_path / "idd", tmp_path / "b").info.extra["notices"]
    )


def test_labels_that_are_missing_are_told(tmp_path):
    root = gta(tmp_path / "raw", [1, 2, 3])
    (root / "labels/00002.png").unlink()
    with pytest.raises(BadFilesError, match=r"labels/00002.png is missing") as caught:
        run("gta5", root, tmp_path / "out")
    assert "1 of 3 frames have no label: is one of the NN_labels.zip missing or incomplete?" in caught.value.notices
    shutil.rmtree(root / "labels")
    with pytest.raises(IccldError, match=r"images but no labels.*NN_labels.zip"):
        run("gta5", root, tmp_path / "out")
    cityscapes(tmp_path / "city")
    shutil.rmtree(tmp_path / "city/gtFine_trainvaltest/gtFine/train")
    notices = run("cityscapes", tmp_path / "city", tmp_path / "b").info.extra["notices"]
    assert "train: no labels are there, so the images were taken alone" in notices


def test_the_same_frame_twice(tmp_path):
    root = gta(tmp_path / "raw/a", [1]).parent
    shutil.copytree(root / "a", root / "b")
    data = run("gta5", root, tmp_path / "out")
    assert data.info.splits == {"train": 1}
    assert "2 files are there more than once; each was taken once" in data.info.extra["notices"]
    content = bytearray((root / "b/labels/00001.png").read_bytes())
    content[-20] ^= 1
    (root / "b/labels/00001.png").write_bytes(content)
    with pytest.raises(IccldError, match=r"a/labels/00001.png and b/labels/00001.png .* different content"):
        run("gta5", root, tmp_path / "again")


def test_the_same_path_in_two_archives(tmp_path):
    root = tmp_path / "raw"
    pack(gta(tmp_path / "one", [1]), root / "01.zip")
    shutil.copy(root / "01.zip", root / "01 (1).zip")
    assert run("gta5", root, tmp_path / "out").info.splits == {"train": 1}
    palette(tmp_path / "one/labels/00001.png", all_ids([7]))
    pack(tmp_path / "one", root / "01 (1).zip")
    with pytest.raises(
        IccldError, match=r"labels/00001.png is in .*01 \(1\).zip and with different content in .*01.zip"
    ):
        run("gta5", root, tmp_path / "again")
    shutil.copytree(tmp_path / "one", root, dirs_exist_ok=True)
    photo(root / "images/00001.png", 5, (8, 41))
    palette(root / "labels/00001.png", all_ids([11], (8, 41)))
    data = run("gta5", root, tmp_path / "mended")
    assert data.read_label(data.frames("train")[0])[0, 0] == 2
    assert "2 unpacked files differ from their packed form; the unpacked ones were taken" in data.info.extra["notices"]


def test_images_that_are_no_frames_are_told(tmp_path):
    photo(tmp_path / "raw/training/image_2/000000_10.png")
    photo(tmp_path / "raw/training/image_2/000000_11.png", 1)
    grey(tmp_path / "raw/training/semantic/000000_10.png", all_ids([7]))
    data = run("kitti", tmp_path / "raw", tmp_path / "out")
    assert data.info.splits == {"train": 1}
    assert any("1 image is not named as the set's frames (training/image_2/000000_11.png)" in text
               for text in data.info.extra["notices"])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("synthia", ["SYNTHIA_RAND_CITYSCAPES.rar"], r"SYNTHIA_RAND_CITYSCAPES.rar cannot be read packed, unpack it"),
        ("synthia", ["RAND_CITYSCAPES\\RGB\\0000000.png"], r"backslashes .*unar or 7z"),
        ("gta5", ["01_images.zip.crdownload"], "download that has not ended"),
        ("synthia", ["RGB/Stereo_Left/Omni_F/000000.png"], "SYNTHIA-SEQS"),
        ("synthia", ["RGB/ap_000_01-11-2015_19-20-57_000000_0_Rand_0.png"], "SYNTHIA-RAND"),
        ("synthia", ["SEQ1/RGBLeft/0000000.png"], "SYNTHIA-SF"),
        ("synthia", ["RGB/0000000.png", "GT/COLOR/0000000.png"], "GT/LABELS/ is needed"),
        ("cityscapes", ["leftImg8bit/train/0/005506_leftImg8bit.png"], "looks like --idd"),
        ("idd", ["leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png"], "looks like --cityscapes"),
        ("acdc", ["rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png"], "looks like --dark-zurich"),
        ("gta5", ["training/images/a.jpg"], "looks like --mapillary"),
        ("kitti", ["training/image_2/000000.png"], "expected training/image_2"),
    ],
)
def test_another_set_or_an_unreadable_one_in_one_line(tmp_path, name, files, words):
    for file in files:
        photo(tmp_path / "raw/x.png").rename(tmp_path / "raw" / "y.png")
        (tmp_path / "raw" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw/y.png").rename(tmp_path / "raw" / file)
    with pytest.raises(IccldError, match=words) as caught:
        run(name, tmp_path / "raw", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_packed_rar_that_is_given_itself(tmp_path):
    (tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar").write_bytes(b"Rar!")
    with pytest.raises(IccldError, match=r"cannot be read packed.*unar"):
        open_tree(tmp_path / "SYNTHIA_RAND_CITYSCAPES.rar", tmp_path)


def test_colours_where_ids_are_needed(tmp_path):
    photo(tmp_path / "gta/images/00001.png")
    rgb(tmp_path / "gta/labels/00001.png", np.full((*SHAPE, 3), (0, 0, 142)))
    with pytest.raises(BadFilesError, match=r"labels/00001\.png holds colours, not ids"):
        run("gta5", tmp_path / "gta", tmp_path / "out")
    rgb(tmp_path / "gta/labels/00001.png", np.full((*SHAPE, 3), 7))
    assert run("gta5", tmp_path / "gta", tmp_path / "out").info.extra["pixels"] == {"road": 320}
    photo(tmp_path / "synthia/RGB/0000000.png")
    rgb(tmp_path / "synthia/GT/LABELS/0000000.png", np.full((*SHAPE, 3), (0, 0, 142)))
    with pytest.raises(BadFilesError, match="holds colours"):
        run("synthia", tmp_path / "synthia", tmp_path / "out")
    rgb16(tmp_path / "synthia/GT/LABELS/0000000.png", all_ids([3]), all_ids([9]))
    assert run("synthia", tmp_path / "synthia", tmp_path / "out").info.extra["pixels"] == {"road": 320}


def test_camvid_archives_as_downloaded(tmp_path):
    colours = np.full((*SHAPE, 3), (128, 64, 128))
    photo(tmp_path / "stills/701_StillsRaw_full/0001TP_006690.png")
    rgb(tmp_path / "labels/0001TP_006690_L.png", colours)
    pack(tmp_path / "stills", tmp_path / "packed/701_StillsRaw_full.zip")
    pack(tmp_path / "labels", tmp_path / "packed/LabeledApproved_full.zip")
    shutil.copytree(tmp_path / "stills", tmp_path / "unpacked")
    shutil.copytree(tmp_path / "labels", tmp_path / "unpacked/Labels32-RGB")
    for layout in ("packed", "unpacked"):
        data = run("camvid", tmp_path / layout, tmp_path / f"out-{layout}")
        assert data.info.extra["pixels"] == {"road": 320}
    photo(tmp_path / "unpacked/train/0001TP_006690.png", 5)
    grey(tmp_path / "unpacked/trainannot/0001TP_006690.png", all_ids([3]))
    with pytest.raises(IccldError, match="same frame with different content"):
        run("camvid", tmp_path / "unpacked", tmp_path / "again")


def test_camvid_beside_other_sets_and_its_own_output(tmp_path):
    root = tmp_path / "all"
    for seed, split in enumerate(("train", "val", "test")):
        photo(root / f"CamVid/{split}/0001TP_00669{seed}.png", seed)
        grey(root / f"CamVid/{split}annot/0001TP_00669{seed}.png", all_ids([3]))
    bdd100k(root)
    for out in ("data", "again"):
        assert run("camvid", root, root / out).info.splits == {"test": 1, "train": 1, "val": 1}
    images = run("camvid", root, tmp_path / "images", labelled=False)
    assert images.info.splits == {"test": 1, "train": 1, "val": 1}


@pytest.mark.parametrize("name", [name for name in SETS if name != "idd"])
def test_a_set_does_not_eat_its_own_output(tmp_path, name):
    make, splits, _ = SETS[name]
    make(tmp_path)
    assert run(name, tmp_path, tmp_path / "data").info.splits == splits
    assert run(name, tmp_path, tmp_path / "again").info.splits == splits


def test_idd_passes_over_names_that_its_own_tool_does_not_know(tmp_path):
    photo(tmp_path / "raw/leftImg8bit/train/0/1_leftImg8bit.png")
    path = tmp_path / "raw/gtFine/train/0/1_gtFine_polygons.json"
    polygons(path, ["road", "ground", "car", "ground"])
    data = run("idd", tmp_path / "raw", tmp_path / "out")
    label = data.read_label(data.frames("train")[0])
    assert label[0, [5, 15, 25, 35]].tolist() == [0, 255, 13, 255]
    assert data.info.extra["passed_over"] == {"ground": 2}
    assert any("'ground' 2" in text for text in own_warnings(data.info))
    polygons(path, ["tree", "grass"])
    with pytest.raises(BadFilesError, match="names no class of this data set: 'grass', 'tree'"):
        run("idd", tmp_path / "raw", tmp_path / "again")


def carla(root: Path, tags: list[int], road: int, seed: int = 0) -> None:
    """One frame of a recording: the tags above, the road below."""
    photo(root / "rgb/0001.png", seed, (60, 40))
    label = np.zeros((60, 40, 3), np.uint8)
    label[..., 0] = road
    label[:20, :, 0] = all_ids(tags, (20, 40))
    rgb(root / "semantic/0001.png", label)


def test_carla_tag_29_and_recordings_of_two_releases(tmp_path):
    carla(tmp_path / "ten/drive", list(range(30)), 1)
    carla(tmp_path / "ten", [1, 2], 1, 1)
    data = run("carla", tmp_path / "ten", tmp_path / "out")
    assert data.info.splits == {"train": 2}
    label = data.read_label(data.frames("train")[1])
    assert label[0, [26, 27, 28, 29]].tolist() == [255] * 4
    carla(tmp_path / "mixed/a", [7, 13], 7)
    carla(tmp_path / "mixed/b", [1, 11], 1)
    with pytest.raises(IccldError, match=r"a/semantic .* has the tags of 0.9.10, b/semantic those of 0.9.14"):
        run("carla", tmp_path / "mixed", tmp_path / "out")


def test_mapillary_classes_of_the_field(tmp_path):
    names = {
        "object--traffic-sign--back": ("Traffic Sign (Back)", None, 7),
        "object--support--traffic-sign-frame": ("Traffic Sign Frame", None, 7),
        "object--street-light": ("Street Light", None, 5),
        "construction--flat--parking": ("Parking", None, 0),
        "object--manhole": ("Manhole", 0, None),
        "human--rider--bicyclist": ("Bicyclist", 12, 12),
    }
    photo(tmp_path / "raw/training/images/a.jpg")
    palette(tmp_path / "raw/training/v1.2/labels/a.png", all_ids(list(range(len(names)))))
    config = {"labels": [{"name": name, "readable": readable} for name, (readable, _, _) in names.items()]}
    (tmp_path / "raw/config_v1.2.json").write_text(json.dumps(config))
    for classes, column in (("definitions", 1), ("field", 2)):
        data = run("mapillary", tmp_path / "raw", tmp_path / classes, classes=classes)
        row = data.read_label(data.frames("train")[0])[0, : len(names)].tolist()
        assert row == [255 if entry[column] is None else entry[column] for entry in names.values()]
    assert field_class_of("Traffic Light") == "traffic light"
    assert field_class_of("On Rails") == "train"
    assert field_class_of("Lane Marking - Crosswalk") == "road"
    assert field_class_of("Mountain") is None


def test_the_copy_of_a_compressed_archive_goes_when_nothing_fits(tmp_path):
    pack(gta(tmp_path / "gta", [1]), tmp_path / "raw/gta.tar.gz")
    with pytest.raises(IccldError, match="looks like --gta5"):
        open_set(ADAPTERS["mapillary"], tmp_path / "raw", tmp_path / "out", False, None, True)
    assert not list((tmp_path / "out").iterdir())
