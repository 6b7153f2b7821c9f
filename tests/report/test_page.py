"""Pages that need nothing but themselves."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from iccld_cli.errors import IccldError
from iccld_cli.report.page import (
    Bar,
    Bars,
    Clip,
    Numbers,
    Pictures,
    Section,
    Table,
    Text,
    embed_picture,
    write_page,
)
from iccld_cli.report.scores import confusion_picture, gallery_section, score_sections

RED = np.full((20, 40, 3), (200, 10, 10), np.uint8)


def decode(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_every_block_is_on_the_page(tmp_path):
    blocks = [
        Text("plain words"),
        Numbers([("mIoU", "61.9 %")]),
        Table(["class", "IoU"], [["road", "90"]]),
        Bars([Bar("sky", 0.25, "25 %", (1, 2, 3)), Bar("rider", None, "–")]),
        Pictures([RED, RED], "two reds", ["left", "right"]),
        Clip("overlay/drive.mp4", "the drive"),
    ]
    write_page(tmp_path / "p.html", "A title", [Section("A section", blocks)], "a subtitle")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    for words in ("A title", "a subtitle", "A section", "plain words", "61.9 %", "road", "width:25.0%", "two reds"):
        assert words in page
    assert 'src="overlay/drive.mp4"' in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r"https?://", page)


def test_text_cannot_become_markup(tmp_path):
    write_page(tmp_path / "p.html", "<script>x</script>", [Section("s", [Text("<b>&")])])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_embedded_pictures():
    small = decode(embed_picture(RED, width=10))
    assert small.shape == (5, 10, 3)
    np.testing.assert_allclose(small.mean((0, 1)), (200, 10, 10), atol=4)
    assert decode(embed_picture(RED[..., 0])).shape == (20, 40)


def test_picture_files_are_embedded_as_they_are(tmp_path):
    Image.fromarray(RED).save(tmp_path / "a.png")
    address = embed_picture(tmp_path / "a.png")
    assert address.startswith("data:image/png;base64,")
    assert (decode(address) == RED).all()
    with pytest.raises(IccldError, match=r"gone\.png"):
        embed_picture(tmp_path / "gone.png")


def evaluation():
    return {
        "miou": 50.0,
        "pixel_accuracy": None,
        "classes": {"road": {"iou": 50.0, "pixels": 10}, "car": {"iou": None, "pixels": 0}},
        "subset": ["road", "car"],
        "ece": 0.1,
        "auroc": None,
        "seconds_per_image": 0.5,
        "reliability": [[0.5, 0.6, 10]],
        "confusion": {"classes": ["road", "sky", "car"], "counts": [[5, 5, 0], [9, 9, 9], [0, 0, 0]]},
    }


def test_scores_become_sections(tmp_path):
    sections = score_sections(evaluation(), {"model": "m"}, {"road": (128, 64, 128)})
    sections.append(gallery_section([("a frame", [RED, RED])], ["input", "prediction"]))
    assert [s.title for s in sections] == ["Summary", "IoU per class", "Confusion", "Calibration", "Frames"]
    write_page(tmp_path / "p.html", "t", sections)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "50.0 %" in page


def test_confusion_picture_copes_with_absent_classes():
    raw = evaluation()
    picture = confusion_picture(raw["confusion"], raw["subset"])
    assert picture.ndim == 3
    assert picture.std() > 5
