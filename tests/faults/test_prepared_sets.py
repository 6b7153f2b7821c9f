"""A prepared set that is no longer what was prepared: named when it is read, never trained or scored on."""

import json
import os
import shutil
import socket

import cv2
import numpy as np
import pytest
import training_runs as runs

from iccld_cli.data.batches import FramePool
from iccld_cli.data.prepared import PreparedDataset
from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.images import Images
from iccld_cli.prepare.prepare import PrepareOptions, prepare
from iccld_cli.prepare.tree import FolderTree


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A set that `prepare` made: four frames with labels, checksums in its index."""
    root = tmp_path_factory.mktemp("prepared")
    for number in range(4):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        label = rng.integers(0, 3, (48, 64), dtype=np.uint8)
        for name, suffix, pixels in (("rgb", "jpg", image), ("seg", "png", label)):
            (root / name).mkdir(exist_ok=True)
            cv2.imwrite(str(root / name / f"{number}.{suffix}"), pixels)
    source = Images(FolderTree(root), "rgb", "seg")
    return prepare(source, root / "out", "mine", PrepareOptions(workers=1))[0].root


@pytest.fixture
def mine(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "mine")


@pytest.fixture
def old(tmp_path):
    """A set in the format of older versions, without checksums."""
    return runs.make_dataset(tmp_path / "old")


def edit_index(root, change):
    path = root / "index.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines[0])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_first(root, split="train"):
    data = PreparedDataset(root)
    frame = data.frames(split)[0]
    return data.read_image(frame), data.read_label(frame)


def file_of(root, kind):
    line = json.loads((root / "index.jsonl").read_text().splitlines()[0])
    return root / line[kind]


def keep_time(path, data):
    """Change a file so that neither size nor time stamp shows it."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# A6: files that changed


def test_what_prepare_wrote_reads_and_its_index_names_each_file_by_sha256(mine):
    import hashlib

    for line in (mine / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        for kind in ("image", "label"):
            assert row[f"{kind}_sha256"] == hashlib.sha256((mine / row[kind]).read_bytes()).hexdigest()
    image, label = read_first(mine)
    assert image.shape == (48, 64, 3) and label.shape == (48, 64)


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(mine, kind, share):
    path = file_of(mine, kind)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(IccldError, match=rf"cannot read {kind} {path}: it .*checksum differs"):
        read_first(mine)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_one_changed_byte_under_the_same_size_and_time_is_named(mine, kind):
    path = file_of(mine, kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    keep_time(path, bytes(data))
    with pytest.raises(IccldError, match=rf"{path}: it is not the file that was prepared"):
        read_first(mine)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_file_replaced_by_another_frame_s_is_named(mine, kind):
    path = file_of(mine, kind)
    shutil.copy(sorted(path.parent.iterdir())[-1], path)
    with pytest.raises(IccldError, match="not the file that was prepared"):
        read_first(mine)


def test_a_resumed_training_meets_replaced_target_pictures_and_says_so(mine, tmp_path):
    runs.make_dataset(tmp_path / "source", seed=1)
    command = ["adapt-seg", "--source", str(tmp_path / "source"), "--target", str(mine), "--out", str(tmp_path / "run")]
    settings = [part for value in runs.SMALL for part in ("--set", value)]
    command += ["--crop", "64x64", "--batch-size", "2", "--iterations", "4", *settings]
    assert runs.run([*command, "--save-every", "2"]) == [0], runs.said(tmp_path / "run")
    (tmp_path / "run" / "stage1.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "state" / "stage1-00000004")
    for path in (mine / "images" / "train").iterdir():
        data = bytearray(path.read_bytes())
        data[-20] ^= 255
        keep_time(path, bytes(data))
    assert runs.run([*command, "--set", "run.keep_states=2", "--resume"]) == [1]
    assert "is not the file that was prepared" in runs.said(tmp_path / "run").splitlines()[-1]
    assert not (tmp_path / "run" / "stage1.safetensors").exists()


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files_of_a_set_without_checksums_are_found_by_decoding(old, kind, share):
    path = file_of(old, kind)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(IccldError, match=rf"cannot read {kind} {path}: it (is|cannot)"):
        read_first(old)


def test_a_truncated_jpeg_without_checksum_is_not_read_as_half_grey(old):
    path = file_of(old, "image")
    pixels = cv2.imread(str(path))
    edit_index(old, lambda row: row.update(image="images/a.jpg"))
    cv2.imwrite(str(old / "images/a.jpg"), pixels)
    read_first(old)
    os.truncate(old / "images/a.jpg", (old / "images/a.jpg").stat().st_size // 2)
    with pytest.raises(IccldError, match=r"a\.jpg: it is truncated"):
        read_first(old)


# A9: labels that do not fit


def test_a_label_of_another_size_is_refused(old):
    cv2.imwrite(str(file_of(old, "label")), np.zeros((64, 79), np.uint8))
    with pytest.raises(IccldError, match="it is 79x64, the index says 80x64"):
        read_first(old)


def test_an_image_of_another_size_is_refused(old):
    cv2.imwrite(str(file_of(old, "image")), np.zeros((63, 80, 3), np.uint8))
    with pytest.raises(IccldError, match="it is 80x63, the index says 80x64"):
        read_first(old)


@pytest.mark.parametrize("value", [19, 33, 254])
def test_an_id_outside_the_label_space_is_refused(old, value):
    label = np.zeros((64, 80), np.uint8)
    label[5, 7] = value
    cv2.imwrite(str(file_of(old, "label")), label)
    with pytest.raises(IccldError, match=f"it holds the label value {value}, and there are 19 classes"):
        read_first(old)


@pytest.mark.parametrize("pixels", [np.zeros((64, 80), np.uint16), np.zeros((64, 80, 3), np.uint8)])
def test_a_label_of_16_bits_or_in_colours_is_refused(old, pixels):
    cv2.imwrite(str(file_of(old, "label")), pixels)
    with pytest.raises(IccldError, match="it is not an 8-bit picture of one channel"):
        read_first(old)


# A11, A13: paths


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../other/a.png", "images/../../a.png", "..", "C:/a.png", "..\\a.png", "", "a\0b"]
)
def test_a_path_that_leaves_the_set_is_refused(old, kind, path):
    edit_index(old, lambda row: row.update({kind: path}))
    with pytest.raises(IccldError, match=r"index.jsonl line 1 names .*not inside the data set's folder"):
        PreparedDataset(old).frames("train")


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_link_out_of_the_set_is_refused(old, kind, tmp_path):
    path = file_of(old, kind)
    shutil.move(path, tmp_path / "elsewhere.png")
    path.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(IccldError, match=r"it is a link to .*elsewhere\.png, outside the data set's folder"):
        read_first(old)


def test_a_linked_folder_out_of_the_set_is_refused_and_a_link_to_the_set_is_not(old, tmp_path):
    (tmp_path / "link").symlink_to(old)
    read_first(tmp_path / "link")
    shutil.move(old / "images", tmp_path / "pictures")
    (old / "images").symlink_to(tmp_path / "pictures")
    with pytest.raises(IccldError, match="outside the data set's folder"):
        read_first(old)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_pipe_in_place_of_a_file_does_not_wait(old, kind):
    path = file_of(old, kind)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IccldError, match="it is a named pipe"):
        read_first(old)


@pytest.mark.parametrize("name", ["dataset.json", "index.jsonl"])
def test_a_pipe_in_place_of_the_description_does_not_wait(old, name):
    (old / name).unlink()
    os.mkfifo(old / name)
    with pytest.raises(IccldError, match=rf"{name} is a named pipe"):
        PreparedDataset(old)


def test_sockets_folders_loops_and_missing_files_are_named(old, monkeypatch):
    path = file_of(old, "image")
    path.unlink()
    with pytest.raises(IccldError, match="it is missing"):
        read_first(old)
    path.symlink_to(path.name)
    with pytest.raises(IccldError, match="it is a loop of links"):
        read_first(old)
    path.unlink()
    path.mkdir()
    with pytest.raises(IccldError, match="it is a folder"):
        read_first(old)
    path.rmdir()
    monkeypatch.chdir(path.parent)  # a socket's path may have a hundred bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
        with pytest.raises(IccldError, match="it is a socket"):
            read_first(old)


def test_a_device_is_never_opened(old):
    try:
        os.mknod(old / "images" / "zero.png", 0o20600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("may not make devices")
    edit_index(old, lambda row: row.update(image="images/zero.png"))
    with pytest.raises(IccldError, match="it is a device"):
        read_first(old)


# B17: index and description that are damaged


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000, b'{"split": "train"}', b"null", b"7", b'"text"', b"\xff\xfe\x00", b"{", b"[]",
        b"x" * (2 << 20),
    ],
)  # fmt: skip
def test_a_damaged_line_of_the_index_is_named(old, line):
    with open(old / "index.jsonl", "ab") as file:
        file.write(line)
    with pytest.raises(IccldError, match=r"index.jsonl line \d+ is damaged"):
        list(PreparedDataset(old).iter_frames())


@pytest.mark.parametrize(
    "change",
    [
        {"image": None}, {"image": 5}, {"image": ["a"]}, {"label": 7}, {"split": None}, {"split": 3}, {"width": "80"},
        {"width": 0}, {"height": -4}, {"width": 1e400}, {"width": float("nan")}, {"height": 10**30}, {"pixels": 5},
        {"pixels": {"300": 4}}, {"pixels": {"0": -4}}, {"pixels": {"0": "many"}}, {"pixels": {"road": 4}},
        {"pixels": [1]}, {"image_sha256": 5}, {"label_sha256": "short"},
    ],
)  # fmt: skip
def test_a_field_of_another_kind_in_the_index_is_named(old, change):
    edit_index(old, lambda row: row.update(change))
    with pytest.raises(IccldError, match=r"index.jsonl line 1 is damaged"):
        PreparedDataset(old).frames("train")


@pytest.mark.parametrize(
    "change",
    [
        {"source": 5}, {"source": [1]}, {"pixels": 7}, {"pixels": {"road": "x"}}, {"pixels": {"nobody": 4}},
        {"frames": []}, {"splits": [3]}, {"splits": {"train": -1}}, {"splits": {"train": "x"}}, {"size": 5},
        {"size": [1]}, {"size": [0, 5]}, {"size": [1e999, 5]}, {"name": None}, {"name": 3}, {"classes_known": 3},
        {"classes_known": [3]}, {"classes_known": ["nobody"]}, {"skipped": 3}, {"skipped": [3]}, {"covers": [3]},
        {"covers": {"truck": 3}}, {"label_space": 3}, {"label_space": {"name": "a", "classes": [3]}},
        {"label_space": {"name": "a", "classes": [{"name": "b", "color": [1, 2]}]}},
        {"label_space": {"name": "a", "classes": [{"name": "b", "color": [1, 2, 256]}]}},
        {"label_space": {"name": "a", "classes": [{"name": "b", "color": [1, 2, float("inf")]}]}},
        {"label_space": {"name": "a", "classes": [{"name": 5, "color": [1, 2, 3]}]}},
        {"format_version": 2}, {"format_version": None}, {"labelled": "x"}, {"duplicates": 5}, {"tool_version": 5},
        {"doubtful": {"frames": None}},
    ],
)  # fmt: skip
def test_a_field_of_another_kind_in_the_description_is_one_clear_line(old, change):
    path = old / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IccldError) as error:
        PreparedDataset(old)
    assert "\n" not in str(error.value) and error.value.hint


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 5000, b"[]", b"\xff\xfe", b"", b"7" * 5000, b"NaN"])
def test_a_description_that_is_no_object_is_one_clear_line(old, text):
    (old / "dataset.json").write_bytes(text)
    with pytest.raises(IccldError, match=r"dataset\.json"):
        PreparedDataset(old)


def test_frames_of_a_whole_set_still_load(old, mine):
    for root in (old, mine):
        assert len(FramePool.of([PreparedDataset(root)]).frames) >= 4
