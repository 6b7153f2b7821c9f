"""A run's log becomes one picture."""

import gc
import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from iccld_cli.errors import IccldError
from iccld_cli.report.curves import group_curves, plot_curves, read_log


def write_log(path, steps=120):
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for step in range(0, steps * 10, 10):
            line = {"step": step, "loss": 2 * math.exp(-step / 400) + 0.1 * rng.random(), "lr": 1e-4}
            line |= {
                "loss_mixed": 1.5 * math.exp(-step / 500) + 0.2 * rng.random(),
                "time": 5.0,
                "done": True,
            }
            line |= {"disc_acc_source": 0.5 + 0.1 * rng.random(), "disc_acc_target": 0.4, "stage": "stage2"}
            line |= {"images_per_second": 12.0, "pseudo_confident": min(1.0, step / 1000)}
            if step % 200 == 0:
                line["validation"] = {"miou": 20 + step / 50, "images": 10}
            file.write(json.dumps(line) + "\n")


def test_keys_are_grouped_into_panels():
    keys = [
        "loss",
        "loss_adv",
        "validation.miou",
        "lr",
        "lr_unet",
        "disc_acc_source",
        "disc_loss",
        "grad_norm",
        "step_seconds",
    ]
    panels = dict(group_curves(keys))
    assert panels["Losses"] == ["loss", "loss_adv", "disc_loss"]
    assert panels["Validation mIoU (%)"] == ["validation.miou"]
    assert panels["Learning rate"] == ["lr", "lr_unet"]
    assert panels["Discriminator accuracy"] == ["disc_acc_source"]
    assert panels["Gradient norm"] == ["grad_norm"]
    assert panels["step_seconds"] == ["step_seconds"]


def test_log_reading(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 3.0, "done": true, "note": "x"}\n'
        '{"step": 2, "loss": NaN}\n'
        "not json\n"
        '{"step": 2, "loss": 1.0, "validation": {"miou": 40}}\n'  # resumed: step 2 again
        '{"step": 3, "lo',  # killed while writing
        encoding="utf-8",
    )
    assert read_log(log) == ({"loss": [(1.0, 3.0), (2.0, 1.0)], "validation.miou": [(2.0, 40.0)]}, [])


def test_stages_follow_one_another(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [("stage1", 10, 3.0), ("stage1", 20, 2.0), ("stage2", 10, 1.0), ("stage2", 20, 0.5)]
    log.write_text("".join(json.dumps({"stage": n, "step": s, "loss": v}) + "\n" for n, s, v in lines))
    curves, stages = read_log(log)
    assert curves["loss"] == [(10.0, 3.0), (20.0, 2.0), (30.0, 1.0), (40.0, 0.5)]
    assert stages == [(0.0, "stage1"), (20.0, "stage2")]


def test_curves_png_is_drawn(tmp_path):
    write_log(tmp_path / "log.jsonl")
    plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 5
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_drawn_figure_does_not_stay_in_memory(tmp_path):
    """A training draws at every state, and makes too few objects for Python to look for cycles in time."""
    write_log(tmp_path / "log.jsonl")
    plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert not [one for one in gc.get_objects() if type(one) is Figure]


@pytest.mark.parametrize("text", ["", '{"step": 1, "loss": NaN}\n', '{"step": 1, "loss": 0.5}\n'])
def test_young_logs_do_not_fail(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_two_stages_are_drawn(tmp_path):
    lines = [{"stage": f"stage{n}", "step": s, "loss": 1 / s, "miou": 10 * n} for n in (1, 2) for s in (10, 20)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_missing_log_is_named(tmp_path):
    with pytest.raises(IccldError, match=r"no log at .*log\.jsonl"):
        plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
