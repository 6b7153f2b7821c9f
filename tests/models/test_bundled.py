"""Encoders that come with the program."""

import os
import shutil
import socket
import types
from pathlib import Path

import pytest
import torch

from iccld_cli import shipped
from iccld_cli.errors import IccldError
from iccld_cli.models.bundled import BUNDLED, bundle
from iccld_cli.models.pretrained import describe_download, load_backbone

REAL = os.environ.get("ICCLD_REAL_DATA")
WEIGHTS = Path(REAL).parent / "weights" if REAL else None


@pytest.mark.parametrize("name", BUNDLED)
def test_it_loads_without_a_network(name, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    encoder = load_backbone(name).eval()
    with torch.no_grad():
        maps = encoder(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    assert [m.shape[-2:] for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all(torch.isfinite(m).all() and m.std() > 0.01 for m in maps)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


@pytest.mark.skipif(not WEIGHTS or not (WEIGHTS / "efficientnet_lite0").is_dir(), reason="needs the original weights")
@pytest.mark.parametrize(
    "name", [("efficientnet-lite0", "efficientnet_lite0"), ("mobilenet-v2", "mobilenet_v2_imagenet")]
)
def test_its_maps_are_those_of_the_original(name):
    bundled, original = (load_backbone(n).eval() for n in (name[0], str(WEIGHTS / name[1])))
    images = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for one, other in zip(original(images), bundled(images), strict=True):
            assert (one - other).abs().max() < 0.01 * one.abs().max()


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "another"])
@pytest.mark.parametrize("name", BUNDLED)
def test_another_file_is_refused(name, damage, tmp_path, monkeypatch):
    file, _ = BUNDLED[name]
    path = tmp_path / file
    shutil.copy(shipped.shipped_file(file), path)
    data = bytearray(path.read_bytes())
    if damage == "changed":
        data[-100] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "another":
        encoder = load_backbone(name)
        with torch.no_grad():
            next(encoder.parameters()).zero_()
        path.write_bytes(bundle(encoder))
    else:
        path.unlink()
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path,))
    with pytest.raises(IccldError, match="comes without" if damage == "gone" else "checksum"):
        load_backbone(name)


class Hub:
    """A hub that knows one model, of which one file is here already."""

    def __init__(self, *args):
        pass

    def model_info(self, name, **options):
        if name != "org/known":
            raise OSError("no route")
        files = {"config.json": 700, "model.safetensors": 21_000_000, "pytorch_model.bin": 99_000_000, "README.md": 9}
        siblings = [types.SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
        return types.SimpleNamespace(siblings=siblings)


def test_what_will_be_downloaded_is_told(tmp_path, monkeypatch):
    here = {"config.json"}
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: file if file in here else None)
    said = describe_download("org/known")
    assert said == "encoder org/known: downloading 21 MB from the Hugging Face hub, once"
    here.add("model.safetensors")
    for nothing in ("org/known", "org/unreachable", "efficientnet-lite0", str(tmp_path)):
        assert describe_download(nothing) is None


def test_it_is_told_before_the_download_begins_whoever_asks_for_the_encoder(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    told = []

    def begin(*_, **__):
        told.append(capsys.readouterr().err)
        raise OSError("the line was cut")

    monkeypatch.setattr("huggingface_hub.snapshot_download", begin)
    with pytest.raises(IccldError, match="the line was cut"):
        load_backbone("org/known")
    assert told == ["encoder org/known: downloading 21 MB from the Hugging Face hub, once\n"]
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(IccldError):
        load_backbone("org/known")
    assert told[1:] == [""]
