"""`iccld export`: the exported file answers as this program does, or is not written."""

import dataclasses
import functools
import http.server
import importlib.util
import json
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from factories import make_dataset, make_model, make_video, scene

from iccld_cli.checkpoint import load_segmenter, save_segmenter
from iccld_cli.diffusion.sampler import sample, seeded_noise
from iccld_cli.errors import IccldError
from iccld_cli.header import without_paths
from iccld_cli.inference import export as export_module
from iccld_cli.inference.graph import linear_updates
from iccld_cli.inference.inputs import collect
from iccld_cli.inference.model import load_model

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime", "openvino")),
    reason="the export extra is not installed",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {stage: make_model(folder / f"{stage}.safetensors", stage) for stage in ("stage1", "stage2")}


@needs_onnx
def test_onnx_with_two_steps_answers_as_the_original(iccld, next_command, models, tmp_path):
    path = tmp_path / "m.onnx"
    status, said, err = iccld(
        "export", "--ckpt", models["stage2"], "--format", "onnx", "--out", path,
        "--size", "50x35", "--steps", 2, "--seed", 3,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert said.startswith(f"wrote {path}")
    assert next_command(said) == ["doctor", "--speed", "--ckpt", str(path)]
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(5).random((1, 3, 35, 50), np.float32)
    segmenter, _ = load_segmenter(models["stage2"])
    wanted = segmenter.probabilities(torch.from_numpy(image), steps=2, seed=3).numpy()
    other = segmenter.probabilities(torch.from_numpy(image), steps=2, seed=4).numpy()
    got = session.run(None, {"image": image})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.abs(got - other).max() > 1e-4  # the seed matters, so the noise is really in the file
    notes = json.loads(session.get_modelmeta().custom_metadata_map["iccld"])
    assert notes["export"] == {"size": [50, 35], "steps": 2, "seed": 3}
    assert notes["classes"] == ["road", "building", "vegetation", "sky", "car"]
    assert notes["label_space"]["classes"][0] == {"name": "road", "color": [128, 64, 128]}


@needs_onnx
def test_predict_and_evaluate_take_an_exported_file(iccld, models, tmp_path):
    kind, suffix = "openvino", ".xml"
    exported, data = tmp_path / f"m{suffix}", make_dataset(tmp_path / "data/camvid")
    assert iccld("export", "--ckpt", models["stage2"], "--format", kind, "--out", exported, "--size", "64x48")[0] == 0
    images = sorted((data / "images/val").iterdir())
    results = {}
    for name, ckpt in (("original", models["stage2"]), (kind, exported)):
        out, scores = tmp_path / name, tmp_path / f"{name}.json"
        kinds = "overlay,labels,confidence,uncertainty"
        status, _, err = iccld("predict", *images, "--ckpt", ckpt, "--out", out, "--save", kinds, "--backend", "torch")
        assert (status, err) == (0, "")
        status, *_ = iccld(
            "evaluate", "--ckpt", ckpt, "--data", data, "--json", scores, "--report", tmp_path / "e.html"
        )
        assert status == 0
        pictures = {p.relative_to(out): cv2.imread(str(p), -1).astype(int) for p in sorted(out.rglob("*.png"))}
        results[name] = pictures, json.loads(scores.read_text(encoding="utf-8"))
    (ours, our_scores), (its, its_scores) = results["original"], results[kind]
    assert ours.keys() == its.keys()
    assert all((np.abs(ours[name] - its[name]) <= 1).mean() > 0.999 for name in ours)
    assert its_scores["subset"] == our_scores["subset"]
    assert its_scores["miou"] == pytest.approx(our_scores["miou"], abs=0.2)
    assert (our_scores["backend"], its_scores["backend"]) == ("torch", kind)
    status, _, err = iccld("predict", *images, "--ckpt", exported, "--out", tmp_path / "no", "--steps", 3)
    assert (status, err.count("\n")) == (1, 1)
    assert "its steps is 1: leave --steps out" in err


@needs_onnx
def test_onnx_of_a_model_with_two_resolutions(iccld, tmp_path):
    model = make_model(tmp_path / "two.safetensors", detail=True, levels=1)
    status, said, err = iccld(
        "export", "--ckpt", model, "--format", "onnx", "--out", tmp_path / "m.onnx", "--size", "96x64"
    )
    assert (status, err) == (0, "")  # the command itself compares the answers
    assert "100.000 % of the pixels" in said


@needs_onnx
def test_openvino_of_a_stage_1_model(iccld, models, tmp_path):
    import openvino

    status, _, err = iccld(
        "export", "--ckpt", models["stage1"], "--format", "openvino", "--out", tmp_path / "m.xml", "--size", "50x35"
    )
    assert (status, err) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    compiled = openvino.Core().compile_model(tmp_path / "m.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(5).random((1, 3, 35, 50), np.float32)
    segmenter, _ = load_segmenter(models["stage1"])
    np.testing.assert_allclose(
        compiled([image])[0], segmenter.probabilities(torch.from_numpy(image)).numpy(), atol=1e-4
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_sampler_as_numbers_is_the_sampler(models, steps):
    scheduler = load_segmenter(models["stage2"])[0].scheduler
    noise, target = seeded_noise((1, 4, 5, 6), 0), seeded_noise((1, 4, 5, 6), 1)
    wanted = sample(lambda z, t: 0.3 * z + target * (t[0] + 1) / 1000, scheduler, noise, steps)
    z = noise
    for t, of_clean, of_noisy in linear_updates(scheduler, steps):
        z = of_clean * (0.3 * z + target * (t + 1) / 1000) + of_noisy * z
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-4)


def test_half_is_small_answers_alike_and_tells_no_paths(iccld, models, tmp_path):
    segmenter, header = load_segmenter(models["stage2"])
    datasets = [{"role": "source", "name": "a", "path": str(tmp_path / "secret"), "digest": "1"}]
    header = dataclasses.replace(header, datasets=datasets)
    save_segmenter(tmp_path / "full.safetensors", segmenter, header)
    status, said, _ = iccld(
        "export", "--ckpt", tmp_path / "full.safetensors", "--format", "half", "--out", tmp_path / "m.safetensors"
    )
    assert status == 0
    assert "fp16" in said
    assert b"secret" not in (tmp_path / "m.safetensors").read_bytes()
    small, its_header = load_segmenter(tmp_path / "m.safetensors")
    assert its_header.datasets == [{"role": "source", "name": "a", "digest": "1"}]
    weights = sum(t.numel() * t.element_size() for t in segmenter.state_dict().values())
    saved = (tmp_path / "full.safetensors").stat().st_size - (tmp_path / "m.safetensors").stat().st_size
    assert saved == pytest.approx(weights / 2, rel=0.05)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    ours, its = (s.probabilities(image, steps=1, seed=0) for s in (segmenter, small))
    torch.testing.assert_close(its, ours, rtol=0, atol=0.02)


def test_a_local_encoder_is_named_without_its_folder(models):
    _, header = load_segmenter(models["stage2"])
    for encoder, told in {"/home/me/mobilenet": "mobilenet", "google/mobilenet": "google/mobilenet"}.items():
        config = header.config.model_copy(update={"model": header.config.model.model_copy(update={"encoder": encoder})})
        assert without_paths(dataclasses.replace(header, config=config)).config.model.encoder == told


@needs_onnx
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "onnx", "--out", "m.pt"], "must end in .onnx"),
        (["--format", "onnx", "--out", "m.onnx", "--steps", "2"], "no denoising UNet"),
    ],
)
def test_wrong_use_is_one_line(iccld, models, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = iccld("export", "--ckpt", models["stage1"], *options, "--size", "50x35")
    assert status == 1
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named(iccld, models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, err = iccld("export", "--ckpt", models["stage1"], "--format", "onnx", "--out", tmp_path / "m.onnx")
    assert status == 1
    assert "iccld[export]" in err


@needs_onnx
def test_a_sampler_that_is_not_linear_is_told_apart_from_an_opset(models, tmp_path):
    segmenter, header = load_segmenter(models["stage2"])
    segmenter.scheduler = DDIMScheduler.from_config(segmenter.scheduler.config, clip_sample=True, clip_sample_range=1.0)
    with pytest.raises(IccldError, match="sampler DDIMScheduler of this model is not linear with 2 steps") as raised:
        export_module.export(segmenter, header, tmp_path / "m.onnx", "onnx", size=(50, 35), steps=2)
    assert "opset" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_a_graph_that_differs_is_not_left(models, tmp_path):
    segmenter, header = load_segmenter(models["stage1"])
    exporting = torch.compiler.is_exporting
    segmenter.decoder.register_forward_hook(lambda *given: 2 * given[-1] if exporting() else given[-1])
    with pytest.raises(IccldError, match=r"differs from the original.*--opset"):
        export_module.export(segmenter, header, tmp_path / "m.onnx", "onnx", size=(50, 35))
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_fp16_is_half_the_size_and_says_so(iccld, models, tmp_path):
    for precision in ("fp32", "fp16"):
        for kind, suffix in (("onnx", ".onnx"), ("openvino", ".xml")):
            path = tmp_path / f"{precision}{suffix}"
            status, said, err = iccld(
                "export", "--ckpt", models["stage1"], "--format", kind, "--out", path, "--size", "64x48",
                "--precision", precision,
            )  # fmt: skip
            assert (status, err) == (0, "")
            assert f", {precision};" in said
            assert "same class (on a frame of noise)" in said
            assert load_model(path).precision == precision
    for suffix in (".onnx", ".bin"):
        large, small = ((tmp_path / f"{p}{suffix}").stat().st_size for p in ("fp32", "fp16"))
        assert small < 0.75 * large


@needs_onnx
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the int8 extra is not installed")
def test_int8_takes_its_ranges_from_footage_and_answers_alike(iccld, next_command, models, tmp_path):
    footage = tmp_path / "footage"
    footage.mkdir()
    for number in range(4):
        cv2.imwrite(str(footage / f"{number}.png"), scene(number, 64, 48)[0][..., ::-1])
    path = tmp_path / "m.xml"
    command = ("export", "--ckpt", models["stage1"], "--size", "64x48", "--precision", "int8")
    status, said, _ = iccld(*command, "--format", "openvino", "--out", path, "--calibrate", footage)
    assert status == 0
    assert "same class (on 2 of your frames)" in said  # the other two gave the ranges
    assert next_command(said) == ["predict", str(footage), "--ckpt", str(path)]
    assert load_model(path).precision == "int8"
    assert "FakeQuantize" in path.read_text(encoding="utf-8")
    wrong = {
        "name two or more with --calibrate": ("--format", "openvino", "--out", tmp_path / "no.xml"),
        "int8 is for OpenVINO": ("--format", "onnx", "--out", tmp_path / "no.onnx", "--calibrate", footage),
    }
    for words, options in wrong.items():
        status, _, err = iccld(*command, *options)
        assert (status, err.count("\n")) == (1, 1)
        assert words in err


@needs_onnx
def test_an_export_with_other_labels_is_not_written(iccld, models, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "REFUSED_BELOW", {"fp16": 1.01})
    status, _, err = iccld(
        "export", "--ckpt", models["stage1"], "--format", "openvino", "--out", tmp_path / "m.xml", "--size", "64x48",
        "--precision", "fp16",
    )  # fmt: skip
    assert status == 1
    assert "of the pixels get another class" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 1, 2, 3, 7, 16, 17, 136])
def test_frames_that_are_compared_on_gave_no_ranges(number):
    frames = [np.full((2, 2, 3), i, np.uint8) for i in range(number)]
    ranges, compared = ([int(frame[0, 0, 0]) for frame in part] for part in export_module.held_out(frames))
    assert sorted(ranges + compared) == list(range(number))
    assert len(compared) == min(export_module.CHECKED, number // 2)
    if number == 136:
        assert len(ranges) == export_module.CALIBRATION_FRAMES
        assert np.ptp(np.diff(compared)) <= 1  # spread over all of them


def test_frames_come_from_videos_images_and_addresses_at_the_size_of_the_graph(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    cv2.imwrite(str(served / "a.png"), np.full((48, 64, 3), 200, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((96, 128, 3), 100, np.uint8))
    video = make_video(tmp_path / "v.mp4", frames=20, size=(64, 48))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.png"
        frames = export_module.sample_frames(collect([url, tmp_path / "b.png", video], tmp_path / "out"), 22, (32, 24))
        server.shutdown()
    assert len(frames) == 22
    assert {frame.shape for frame in frames} == {(24, 32, 3)}
    assert (frames[0].mean(), frames[1].mean()) == (200, 100)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "openvino", "--out", "m.pt"], "must end in .xml"),
        (["--format", "onnx", "--out", "m.onnx", "--precision", "int8"], "int8 is for OpenVINO"),
        (["--format", "onnx", "--out", "m.onnx", "--calibrate", "rtsp://cam/1"], "rtsp://cam/1 has no end"),
    ],
)
@needs_onnx
def test_what_cannot_be_is_told_before_footage_is_decoded(iccld, models, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    status, _, err = iccld("export", "--ckpt", models["stage1"], "--calibrate", "broken.mp4", *options)
    assert (status, err.count("\n")) == (1, 1)
    assert words in err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("export", "--format", "half", "--out", "m.safetensors", "--height", 96), "--height would do nothing with"),
        (("export", "--format", "half", "--out", "m.safetensors", "--licence", "mit"), "--licence would do nothing"),
        (("export", "--format", "hub", "--out", "m", "--steps", 0, "--seed", 0), "--steps, --seed would do nothing"),
        (("export", "--format", "onnx", "--out", "m.onnx", "--push", "a/b"), "--push would do nothing without"),
        (("doctor", "--size", "64x64"), "--size would do nothing without --speed"),
    ],
)
def test_options_that_would_do_nothing_are_refused(iccld, models, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = iccld(*command, *(("--ckpt", models["stage1"]) if command[0] == "export" else ()))
    assert status == 2
    assert words in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
