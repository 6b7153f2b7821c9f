"""What `doctor --speed` measures: rows from processes of their own, advice from rows."""

import json
import sys

import pytest

from iccld_cli.__main__ import main
from iccld_cli.inference import speed


@pytest.fixture
def model_file(tmp_path, small_config):
    """A stage-1 model of this program, small and untrained."""
    from iccld_cli.checkpoint import save_segmenter
    from iccld_cli.header import ModelHeader
    from iccld_cli.labels import CITYSCAPES
    from iccld_cli.models.build import build_segmenter

    config = small_config("data.crop=[64,64]", "data.batch_size=2", "data.workers=0")
    path = tmp_path / "stage1.safetensors"
    header = ModelHeader("stage1", config, CITYSCAPES, (0, 2, 10, 13), [], 1, {})
    save_segmenter(path, build_segmenter(config, len(CITYSCAPES), denoiser=False, seed=0), header)
    return path


def test_rows_of_prediction_and_training(model_file, monkeypatch, capsys):
    monkeypatch.setattr(speed, "backends_for", lambda path, device: ["torch", "onnx"])
    monkeypatch.setattr(speed, "TRAINED_STEPS", 2)
    monkeypatch.setattr(speed, "SECONDS", 0.2)
    monkeypatch.setattr(speed, "TOWN_FRAMES", 4)
    monkeypatch.setattr(speed, "TOWN_SIZE", "96x72")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(
        sys, "argv", ["iccld", "doctor", "--speed", "--json", "--size", "64x48", "--ckpt", str(model_file)]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    torch, onnx = found["predict"]
    assert torch["backend"] == "torch" and torch["precision"] == "fp32" and torch["device"] == "cpu"
    assert torch["frames_per_second"] > 0 and torch["first_seconds"] > 0
    assert 0.05 < torch["memory_gib"] < 4  # of a process with torch in it
    assert onnx == {"backend": "onnx", "error": f"{model_file} is no .onnx file"}
    assert [row["stage"] for row in found["train"]] == ["stage1", "stage2"]
    for row in found["train"]:
        assert row["steps_per_second"] > 0 and row["crop"] == "64x64" and row["batch_size"] == 2
    assert found["size"] == "64x48"
    assert any(line.startswith("predict: torch is the fastest") for line in found["advice"])


def test_advice_names_what_is_faster_than_the_default():
    rows = [
        {"backend": "openvino", "frames_per_second": 4.0},
        {"backend": "torch", "frames_per_second": 10.0},
        {"backend": "compiled", "error": "no compiler"},
    ]
    training = [{"stage": "stage1", "steps_per_second": 2.0}, {"stage": "stage2", "error": "no memory"}]
    assert speed.advice({"size": "8x8", "predict": rows, "train": training}) == [
        "predict: torch is the fastest, 10.0 frames a second at 8x8",
        "predict: --backend torch is 2.5 times faster than the default",
        "predict: an hour of video at 25 frames a second takes 2.5 hours",
        "train: 1,000 steps of stage1 take 8 minutes",
    ]


@pytest.mark.parametrize(
    "options", [("--ckpt", "x.safetensors"), ("--speed", "--size", "12"), ("--speed", "--ckpt", "no")]
)
def test_what_is_asked_for_wrongly_is_told(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["iccld", "doctor", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
