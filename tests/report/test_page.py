"""Pages that need nothing but themselves."""

import base64
import hashlib
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES
from iccld_cli.report.page import (
    Bar,
    Bars,
    Cell,
    Clip,
    Frames,
    LayeredFrame,
    Listing,
    Matrix,
    Numbers,
    Pictures,
    Reliability,
    Section,
    Table,
    Text,
    embed_picture,
    write_page,
)
from iccld_cli.report.scores import class_map, confusion_matrix, error_map, score_sections

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
    assert 'src="./overlay/drive.mp4"' in page
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
    sections = score_sections([evaluation()], [""], {"model": "m"}, {"road": (128, 64, 128)})
    assert [s.title for s in sections] == ["Summary", "Classes", "Calibration", "Confusion"]
    write_page(tmp_path / "p.html", "t", sections)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "50.0 %" in page
    assert '<polyline points="50.00,40.00"' in page


def test_confusion_in_percent_with_a_column_for_what_is_not_scored():
    raw = evaluation()
    matrix = confusion_matrix(raw["confusion"], raw["subset"])
    assert matrix.columns == ["road", "car", "other"]
    assert matrix.shares == [[50, 0, 50], [0, 0, 0]]


def test_maps_keep_every_pixel_and_have_the_colours_of_the_classes():
    label = np.array([[0, 13, 255], [13, 13, 0]], np.uint8)
    predicted = np.array([[0, 0, 5], [13, 0, 0]], np.uint8)
    assert tuple(decode_map(class_map(label, CITYSCAPES))[0, 1]) == CITYSCAPES.colors[13]
    errors = decode_map(error_map(predicted, label))
    right, wrong, left_out = errors[0]
    assert len({tuple(color) for color in (right, wrong, left_out)}) == 3
    assert (errors[1] == [right, wrong, right]).all()


def decode_map(picture):
    data = base64.b64decode(embed_picture(picture).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


NASTY = "<img src=x onerror=document.title='broken'>\"'</script><script>document.title='broken'</script>"


def whole_page(path):
    """A page with everything that moves, and names that would be markup or script if they could."""
    maps = [class_map(np.full((30, 60), value, np.uint8), CITYSCAPES) for value in (0, 10)]
    frames = [LayeredFrame(f"{n} {NASTY}", [np.full((30, 60, 3), 90, np.uint8), *maps]) for n in range(3)]
    values = (("a", 2), ("b", 10), ("c", None))
    blocks = [
        Table([NASTY, "IoU"], [[Cell(n, color=(1, 2, 3)), Cell(f"{v}", v)] for n, v in values], sortable=True),
        Frames([NASTY, "label", "answer"], frames, 1, 2),
        Listing([NASTY], warning=True),
        Matrix([NASTY], [NASTY], [[50.0]]),
        Reliability([(NASTY, [(0.5, 0.4, 10), (0.9, 0.8, 30)])]),
        Clip("over lay/a#b.mp4", NASTY),
        Pictures([RED], plot=True),
    ]
    write_page(path, "whole", [Section(NASTY, blocks)])
    return path.read_text(encoding="utf-8")


def test_nothing_is_loaded_and_only_the_pages_own_script_runs(tmp_path):
    page = whole_page(tmp_path / "p.html")
    assert not re.search(r"(?i)https?:|@import|url\(", page)
    assert {address[:5] for address in re.findall(r'\b(?:src|href)="([^"]*)', page)} == {"data:", "./ove"}
    assert 'src="./over%20lay/a%23b.mp4"' in page
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


def browse(page, out, *options):
    """What Chromium makes of a page: its final document with `--dump-dom`, or a picture."""
    words = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    words += ["--virtual-time-budget=2000", f"--user-data-dir={out / 'profile'}", page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=240).stdout


@browser
def test_a_browser_runs_the_script_and_no_name(tmp_path):
    whole_page(tmp_path / "p.html")
    made = browse(tmp_path / "p.html", tmp_path, "--dump-dom")
    assert "<title>whole</title>" in made
    assert made.count('class="stage"') == 3  # the script made the sliders
    assert '<div class="tools">' in made
    assert "--cut: 50%" in made


@browser
def test_a_page_is_dark_in_the_dark_and_fits_a_phone(tmp_path):
    whole_page(tmp_path / "p.html")
    light, dark = tmp_path / "light.png", tmp_path / "dark.png"
    browse(tmp_path / "p.html", tmp_path, f"--screenshot={light}", "--window-size=500,900")
    scheme = "--blink-settings=preferredColorScheme=0"
    browse(tmp_path / "p.html", tmp_path, f"--screenshot={dark}", "--window-size=500,900", scheme)
    bright, dim = (np.asarray(Image.open(path).convert("RGB")) for path in (light, dark))
    assert bright[:, -1].min() > 200  # nothing runs out of the page on the right
    assert dim[:, -1].max() < 60
    assert (bright.std(axis=(1, 2)) > 5).sum() > 100
