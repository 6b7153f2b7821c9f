"""Agreement of answers along the motion of a video."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from factories import make_dataset, make_model

from iccld_cli.data.prepared import DatasetInfo, Frame, PreparedDataset
from iccld_cli.inference import along_flow
from iccld_cli.inference.along_flow import flow_consistency, follow, neighbours
from iccld_cli.inference.model import Segmentation, load_model


def texture(rows=96, columns=400):
    """A picture with detail everywhere: uint8 (rows, columns, 3)."""
    noise = np.random.default_rng(3).integers(0, 256, (rows // 4, columns // 4, 3)).astype(np.uint8)
    return cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)


def make_clip(root, numbers, step=3, split="train", fps=None, name="drive_{:06d}"):
    """A prepared set whose frames are a window that moves over a picture, `step` pixels a number."""
    picture, lines = texture(), []
    (root / "images").mkdir(parents=True)
    for number in numbers:
        image = picture[:, step * number : step * number + 160]
        path = f"images/{name.format(number)}.png"
        cv2.imwrite(str(root / path), image[..., ::-1])
        lines.append(Frame(split, path, None, 160, 96, None).to_json())
    source = {} if fps is None else {"adapter": "video", "path": "drive.mp4", "options": {"fps": fps}}
    info = DatasetInfo(name="clip", splits={split: len(lines)}, source=source)
    (root / "dataset.json").write_text(json.dumps(info.to_json()), encoding="utf-8")
    (root / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return PreparedDataset(root)


class ByColour:
    """Answers by the colour of a pixel, which moves along with it; or with `still`, by its place."""

    def __init__(self, header, still=False):
        self.header, self.still = header, still

    def segment(self, frames, want=(), size=None, sampling=None):
        labels = np.where(frames[..., 0] > 127, 13, 0).astype(np.uint8)
        if self.still:
            labels[:] = (np.arange(frames.shape[2]) // 4 % 2 * 13)[None, None]
        return Segmentation(labels)


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    return load_model(make_model(tmp_path_factory.mktemp("model") / "stage2.safetensors")).header


def test_answers_that_move_with_the_picture_agree(tmp_path, header):
    clip = make_clip(tmp_path / "clip", range(8))
    found = flow_consistency(ByColour(header), clip, "train")
    assert found.pairs == 7 and found.why is None
    assert found.agreement > 0.95 and found.iou > 0.9 and found.visible > 0.8
    still = flow_consistency(ByColour(header, still=True), clip, "train")
    assert still.agreement < 0.6 < found.agreement
    assert still.to_json() == {
        "agreement": pytest.approx(100 * still.agreement, abs=1e-3),
        "iou": pytest.approx(100 * still.iou, abs=1e-3),
        "visible": pytest.approx(100 * still.visible, abs=1e-3),
        "pairs": 7,
        "left_out": None,
    }


def test_the_flow_finds_where_a_place_was_and_what_came_into_view():
    picture = cv2.cvtColor(texture(), cv2.COLOR_RGB2GRAY)
    where, there = follow(picture[:, :160], picture[:, 5:165])
    columns = np.arange(160)[None] + 5
    assert np.abs(where[..., 0] - columns)[there].max() < 1.5
    assert there[:, :150].mean() > 0.9
    assert not there[:, 156:].any()  # it was beyond the edge
    dark = (picture[:, 5:165] * 0.5).astype(np.uint8)  # the exposure changed, the scene did not
    assert follow(picture[:, :160], dark)[1][:, :150].mean() > 0.8


def test_frames_too_far_apart_are_left_out_by_what_the_index_or_the_pictures_say(tmp_path, header):
    told = flow_consistency(ByColour(header), make_clip(tmp_path / "slow", range(0, 40, 12), fps=2.0), "train")
    assert told.why == "the frames are 0.5 s apart; prepare the video with --fps 10 or more"
    assert told.to_json()["agreement"] is None
    apart = flow_consistency(ByColour(header), make_clip(tmp_path / "far", range(0, 80, 40)), "train")
    assert apart.why == (
        "the frames are too far apart: 0 of 1 pairs of neighbouring frames show enough of the same places"
    )
    every = make_clip(tmp_path / "every", range(4), fps=2.0)  # a video of two frames a second, all of them taken
    assert flow_consistency(ByColour(header), every, "train").pairs == 3


def test_neighbours_are_of_one_video_and_equally_far_apart(tmp_path):
    clip = make_clip(tmp_path / "gap", [0, 2, 4, 10, 12])
    numbers = [(one.image[-10:-4], other.image[-10:-4]) for one, other in neighbours(clip, "train")]
    assert numbers == [("000000", "000002"), ("000002", "000004"), ("000010", "000012")]
    cities = make_clip(tmp_path / "cities", range(2), name="ulm_{:06d}_leftImg8bit")
    assert len(neighbours(cities, "train")) == 1
    assert "no two frames are of one video" in neighbours(make_clip(tmp_path / "one", [3]), "train")


def test_regions_that_are_not_the_scene_do_not_count(tmp_path, header, monkeypatch):
    clip = make_clip(tmp_path / "clip", range(3))
    region = np.zeros((96, 160), bool)
    region[:, 80:] = True
    clip.ignored = lambda frame: region
    asked = []
    follows = along_flow.follow
    monkeypatch.setattr(along_flow, "follow", lambda old, new: asked.append(1) or follows(old, new))

    def half_still(frames, *_, **__):
        labels = ByColour(header).segment(frames).labels
        labels[:, :, 80:] = np.random.default_rng(len(asked)).integers(0, 2, (1, 96, 80)) * 13  # a flickering bonnet
        return Segmentation(labels)

    found = flow_consistency(SimpleNamespace(header=header, segment=half_still), clip, "train")
    assert found.agreement > 0.95


def test_labelled_sets_of_single_frames_have_no_neighbours(tmp_path):
    data = PreparedDataset(make_dataset(tmp_path / "own"))
    found = neighbours(data, "val")
    assert isinstance(found, list) and len(found) == 2  # their names count on; the pictures decide
