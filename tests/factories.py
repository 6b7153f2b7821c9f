"""Small real things for the tests: a model file with random weights, a prepared data set, a video."""

import contextlib
import json
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from iccld_cli.checkpoint import save_segmenter
from iccld_cli.config import load_config
from iccld_cli.data.prepared import DatasetInfo, Frame
from iccld_cli.header import ModelHeader
from iccld_cli.labels import CITYSCAPES
from iccld_cli.models.build import build_segmenter

CLASSES = (0, 2, 8, 10, 13)  # road, building, vegetation, sky, car


def make_model(path, stage="stage2", seed=0, detail=False, levels=2):
    """A `tiny` model file with random weights, smaller than the preset; `detail` gives it two resolutions.

    A UNet of one level is converted to other formats in half of the time.
    """
    config = load_config(
        "tiny",
        assignments=[
            "model.tiny_channels=[8, 16, 24, 32]",
            "model.latent_channels=8",
            "model.fuse_channels=16",
            "model.skip_channels=8",
            "model.decoder_channels=16",
            f"model.unet_channels={[16] * levels}",
            f"model.detail={str(detail).lower()}",
        ],
    )
    segmenter = build_segmenter(config, len(CITYSCAPES), denoiser=stage == "stage2", seed=seed).eval()
    if segmenter.denoiser is not None:  # its last layer starts at zero, where steps and noise change nothing
        torch.nn.init.normal_(segmenter.denoiser.unet.conv_out.weight, std=0.2)
    header = ModelHeader(stage=stage, config=config, label_space=CITYSCAPES, classes=CLASSES)
    save_segmenter(path, segmenter, header)
    return path


def scene(index, width, height):
    """A street of flat colours: uint8 (height, width, 3) image and uint8 (height, width) trainIds."""
    label = np.full((height, width), 10, np.uint8)
    label[height // 3 :, : width // 2] = 2
    label[height // 2 :] = 0
    left = (index * 7) % max(1, width - 12)
    label[height // 2 : height // 2 + height // 6, left : left + 12] = 13
    palette = np.array(CITYSCAPES.colors, np.uint8)
    noise = np.random.default_rng(index).integers(-12, 13, (height, width, 3))
    image = np.clip(palette[label].astype(int) + noise, 0, 255).astype(np.uint8)
    label[-4:] = 255
    return image, label


def make_dataset(root, name="camvid", counts=(("val", 3), ("test", 2)), sizes=((64, 48),), labelled=True):
    """A prepared data set in the documented format, written without the code under test."""
    root = Path(root)
    lines, number = [], 0
    for split, count in counts:
        for _ in range(count):
            width, height = sizes[number % len(sizes)]
            image, label = scene(number, width, height)
            image_name, label_name = f"images/{split}/{number:03d}.png", f"labels/{split}/{number:03d}.png"
            for relative, pixels in ((image_name, image[..., ::-1]), (label_name, label)):
                (root / relative).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / relative), pixels)
            ids, pixels_of = np.unique(label, return_counts=True)
            lines.append(
                Frame(
                    split=split,
                    image=image_name,
                    label=label_name if labelled else None,
                    width=width,
                    height=height,
                    pixels=dict(zip(ids.tolist(), pixels_of.tolist(), strict=True)) if labelled else None,
                ).to_json()
            )
            number += 1
    info = DatasetInfo(
        name=name,
        classes_known=("road", "building", "pole", "sky", "car") if labelled else None,
        splits=dict(counts),
    )
    (root / "dataset.json").write_text(json.dumps(info.to_json()), encoding="utf-8")
    (root / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def make_video(path, frames=12, size=(96, 64), fps=Fraction(25), codec="libx264", audio=False):
    """An H.264 video of the moving scene; `size` is (width, height)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "6"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(i, *size)[0], format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


SENDER = """
import sys, time
import av, numpy as np
url, form, frames, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
for _ in range(100):
    try:
        out = av.open(url, "w", format=form, options={"rtsp_transport": "tcp"} if form == "rtsp" else {})
        break
    except (av.error.FFmpegError, OSError):
        time.sleep(0.1)
stream = out.add_stream("mpeg4", rate=25)
stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
for number in range(frames):
    grey = np.full((48, 64, 3), number % 200 + 20, np.uint8)
    out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
    time.sleep(pause)
out.mux(stream.encode())
out.close()
"""


@contextlib.contextmanager
def sender(url, form, frames, pause):
    """A process that sends numbered grey frames to an address as soon as somebody listens there."""
    process = subprocess.Popen([sys.executable, "-c", SENDER, url, form, str(frames), str(pause)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port():
    """A port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
