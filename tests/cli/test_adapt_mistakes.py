"""What a user can get wrong before training starts: one line, exit 1, nothing written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from iccld_cli.checkpoint import save_segmenter
from iccld_cli.cli.app import main
from iccld_cli.config import Config
from iccld_cli.data.prepared import INDEX_NAME, INFO_NAME, DatasetInfo, Frame
from iccld_cli.header import ModelHeader
from iccld_cli.labels import CITYSCAPES, LabelSpace
from iccld_cli.models.build import build_segmenter


def write_set(folder: Path, name: str, space: LabelSpace = CITYSCAPES, labels: bool = True) -> str:
    root = folder / name
    root.mkdir()
    known = space.names if labels else None
    info = DatasetInfo(name, space, known, {"train": 1}, None, {"adapter": "images", "path": "-"}, "0")
    (root / INFO_NAME).write_text(json.dumps(info.to_json()))
    label = "labels/a.png" if labels else None
    (root / INDEX_NAME).write_text(
        Frame("train", "images/a.png", label, 64, 64, {0: 4096} if labels else None).to_json()
    )
    return str(root)


def write_model(path: Path, stage: str) -> str:
    config = Config()
    model = build_segmenter(config, len(CITYSCAPES), denoiser=stage == "stage2", seed=0)
    save_segmenter(path, model, ModelHeader(stage, config, CITYSCAPES, (0, 1)))  # type: ignore[arg-type]
    return str(path)


@pytest.fixture
def fails(monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["iccld", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    return run


def test_adapt_seg(fails, tmp_path: Path) -> None:
    labelled, bare = write_set(tmp_path, "a"), write_set(tmp_path, "b", labels=False)
    two = LabelSpace("mine", ("floor", "rest"), ((0, 0, 0), (9, 9, 9)))
    other, out = write_set(tmp_path, "c", two), tmp_path / "run"
    arguments = ["adapt-seg", "--out", str(out), "--source"]
    assert "no prepared data set" in fails(*arguments, str(tmp_path / "none"), "--target", bare)
    assert "label space" in fails(*arguments, labelled, "--target", other)
    assert "has no labels" in fails(*arguments, bare, "--target", bare)
    assert "no target" in fails(*arguments, labelled)
    assert "'tiny'" in fails(*arguments, labelled, "--target", bare, "--preset", "tinny")
    assert "optim.lr" in fails(*arguments, labelled, "--target", bare, "--set", "optim.rl=1")
    assert not out.exists()
    out.mkdir()
    write_model(out / "stage1.safetensors", "stage1")
    before = (out / "stage1.safetensors").read_bytes()
    assert "--resume" in fails(*arguments, labelled, "--target", bare)
    assert (out / "stage1.safetensors").read_bytes() == before


def test_adapt_adv(fails, tmp_path: Path) -> None:
    bare = write_set(tmp_path, "b", labels=False)
    assert "no model file" in fails("adapt-adv", "--ckpt", str(tmp_path / "none.safetensors"))
    assert "--source" in fails("adapt-adv", "--ckpt", write_model(tmp_path / "two.safetensors", "stage2"))
    (tmp_path / "text.safetensors").write_text("not a model")
    assert "safetensors" in fails("adapt-adv", "--ckpt", str(tmp_path / "text.safetensors"))
    one, labelled = write_model(tmp_path / "one.safetensors", "stage1"), write_set(tmp_path, "a")
    assert "no target" in fails("adapt-adv", "--ckpt", one, "--source", labelled)
    assert "model.latent_channels" in fails(
        "adapt-adv", "--ckpt", one, "--source", labelled, "--target", bare, "--set", "model.latent_channels=64"
    )
    assert {p.suffix for p in tmp_path.iterdir() if p.is_file()} == {".safetensors"}
