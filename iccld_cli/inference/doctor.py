"""What this machine can do, found out by doing it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "opencv-python", "av", "numpy", "safetensors")
OPTIONAL = ("onnx", "onnxruntime", "openvino", "tensorboard")
FREE_BYTES_NEEDED = 2 * 1024**3  # prepared data, training states and a video of a small project


def examine(folder: Path) -> dict[str, Any]:
    """Look at the machine.

    Args:
        folder: Where the user would work; its disk and permissions are looked at.

    Returns:
        JSON-ready: `python`, `platform`, `versions`, `cpu`, `cuda`, `h264`, `disk`, `forward`, `problems`
        (what keeps the program from working), `warnings` and `verdict`.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in (*LIBRARIES, *OPTIONAL)},
        "problems": [],
        "warnings": [],
    }
    problems, warnings = found["problems"], found["warnings"]
    for name in LIBRARIES:
        if found["versions"][name] is None:
            problems.append(f"{name} is not installed")
    found["h264"] = _h264(problems)
    found["disk"] = _disk(folder, problems, warnings)
    found["cpu"] = {"threads": os.cpu_count()}
    found["cuda"], found["forward"] = [], {}
    try:
        import torch
    except Exception as error:  # a broken installation raises what it likes
        problems.append(f"torch cannot be imported ({error})")
    else:
        found["cpu"]["torch_threads"] = torch.get_num_threads()
        found["cuda"] = _cuda_devices(warnings)
        found["forward"] = _forward(problems)
    found["verdict"] = _verdict(found)
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _h264(problems: list[str]) -> dict[str, Any]:
    try:
        from iccld_cli.inference.video import check_encoder

        reason = check_encoder()
    except Exception as error:
        reason = str(error)
    if reason is not None:
        problems.append(f"H.264 video cannot be written ({reason})")
    return {"works": reason is None, "reason": reason}


def _disk(folder: Path, problems: list[str], warnings: list[str]) -> dict[str, Any]:
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            writable = True
    except OSError:
        writable = False
        problems.append(f"cannot write into {folder}")
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_NEEDED:
        warnings.append(f"only {free / 1024**3:.1f} GB of disk are free")
    return {"folder": str(folder), "writable": writable, "free_bytes": free}


def _cuda_devices(warnings: list[str]) -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            warnings.append("there is an NVIDIA driver, but this torch is built without CUDA")
        return []
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
                # Emulated bf16 is slower than fp32, so the question is about hardware.
                "bf16": properties.major >= 8,
            }
        )
    return devices


def _forward(problems: list[str]) -> dict[str, Any]:
    """Build a small model with its diffusion UNet and segment a grey image on each kind of device."""
    import torch

    from iccld_cli.config import load_config
    from iccld_cli.models.build import build_segmenter

    times: dict[str, Any] = {}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        try:
            with torch.random.fork_rng(devices=[]):
                segmenter = build_segmenter(load_config("tiny"), 19, denoiser=True, seed=0).to(device).eval()
            image = torch.full((1, 3, 128, 256), 0.5, device=device)
            segmenter.probabilities(image)
            started = time.perf_counter()
            out = segmenter.probabilities(image).cpu()
            times[device] = {"seconds": round(time.perf_counter() - started, 4)}
            if not torch.isfinite(out).all() or abs(float(out.sum(1).mean()) - 1) > 1e-3:
                problems.append(f"a forward pass on {device} gives wrong numbers")
        except Exception as error:
            problems.append(f"a forward pass on {device} fails ({type(error).__name__}: {error})")
    return times


def _verdict(found: dict[str, Any]) -> str:
    if found["problems"]:
        return f"not usable: {found['problems'][0]}"
    if found["cuda"]:
        first = found["cuda"][0]
        precision = "bf16" if first["bf16"] else "fp16"
        text = f"ready: {len(found['cuda'])} CUDA device(s), {first['name']}, {precision}; every preset will run"
    else:
        text = f"ready: CPU only, {found['cpu']['threads']} threads; presets tiny and small are practical"
    return text + (f" (but {found['warnings'][0]})" if found["warnings"] else "")
