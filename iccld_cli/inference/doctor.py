"""What this machine can do, found out by doing it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "opencv-python", "av", "numpy", "safetensors")
OPTIONAL = ("onnx", "onnxruntime", "openvino", "tensorboard")

IMPORTED = {
    "torch": "torch",
    "diffusers": "from diffusers import UNet2DModel, DDIMScheduler",
    "transformers": "from transformers import AutoBackbone, AutoConfig",
    "accelerate": "accelerate",
    "opencv-python": "cv2",
    "av": "av",
    "numpy": "numpy",
    "safetensors": "from safetensors.torch import save_file",
    "kornia": "kornia",
    "huggingface-hub": "huggingface_hub",
    "matplotlib": "matplotlib.pyplot",
    "pillow": "PIL.Image",
    "pydantic": "pydantic",
    "jinja2": "jinja2",
    "filelock": "filelock",
    "platformdirs": "platformdirs",
}
"""Package -> what this program imports of it, as a module or as a statement."""

IMPORTED_IF_THERE = {
    "torchvision": "torchvision",  # not used here, but diffusers and transformers import it where it is installed
    "xformers": "xformers",  # the same
    "flash-attn": "flash_attn",  # the same
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "openvino": "from iccld_cli.inference.runtimes import import_openvino; import_openvino()",
    "nncf": "from iccld_cli.inference.runtimes import import_openvino; import_openvino(); import nncf",
    "tensorboard": "from torch.utils.tensorboard import SummaryWriter",
}
"""The same for packages that it does without."""

_UNUSED = ("torchvision", "xformers", "flash-attn")
_IMPORT_SECONDS = 300
FREE_BYTES_NEEDED = 2 * 1024**3  # prepared data, training states and a video of a small project


def examine(folder: Path) -> dict[str, Any]:
    """Look at the machine.

    Args:
        folder: Where the user would work; its disk and permissions are looked at.

    Returns:
        JSON-ready: `python`, `platform`, `versions`, `imports`, `cpu`, `cuda`, `h264`, `disk`, `forward`, `problems`
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
    found["imports"] = check_imports(problems, warnings)
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


def check_imports(problems: list[str], warnings: list[str]) -> dict[str, str | None]:
    """Import every dependency, in a process of its own, so that one that is broken hides no other.

    Returns:
        Package -> None where it works, else what is wrong. Packages that are optional and not there are left out.
    """
    there = {name: what for name, what in IMPORTED_IF_THERE.items() if _version(name) is not None}
    failed = broken_imports({**IMPORTED, **there})
    # A package that nothing here uses breaks those that import it where it is: it is told first, and its victims not.
    guilty = [name for name in _UNUSED if failed.get(name)]
    for name in guilty:
        mend = f"mend: pip uninstall {name} (this program does without it)"
        if name == "torchvision":
            mend += ", or install the one that was built for torch " + (_version("torch") or "here")
        hurt = [other for other in IMPORTED if failed.get(other)]
        told = f"{name} {_version(name)} cannot be imported ({failed[name]})"
        if hurt:
            problems.append(f"{told}, which keeps {', '.join(hurt)} from being imported; {mend}")
        else:
            warnings.append(f"{told}; {mend}")
    for name in {**IMPORTED, **there}:
        reason = failed.get(name)
        if reason is None or name in guilty or (guilty and name in IMPORTED):
            continue
        if _version(name) is None:
            problems.append(f"{name} is not installed; mend: pip install {name}")
        else:
            told = f"{name} {_version(name)} cannot be imported ({reason}); mend: {_mend(name, reason)}"
            (problems if name in IMPORTED else warnings).append(told)
    return failed


def broken_imports(wanted: Mapping[str, str]) -> dict[str, str | None]:
    """Try imports.

    Args:
        wanted: Name -> a module, or statements.

    Returns:
        Name -> None where it works, else the reason in a line.
    """
    # One process tries them all, since most of the time goes into torch, which nearly all share. Only where that fails,
    # or dies of a library, is each tried by itself.
    modules = [what if " " in what else f"import {what}" for what in wanted.values()]
    if _reason("\n".join(modules)) is None:
        return dict.fromkeys(wanted)
    return {name: _reason(what) for name, what in zip(wanted, modules, strict=True)}


def _reason(code: str) -> str | None:
    """Why a piece of code fails in a fresh interpreter, in a line; None where it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=_IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {_IMPORT_SECONDS} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"it ends the interpreter with signal {-done.returncode}"
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    # The last exception of a chain may only say that an import failed; the first one says why.
    first = next((line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1] if lines else "")
    return first.partition("): ")[0][:300] or f"exit status {done.returncode}"


def _mend(name: str, reason: str) -> str:
    missing = re.search(r"No module named '([\w.]+)'", reason)
    if missing:
        return f"pip install {missing[1].partition('.')[0]}"
    if "libGL" in reason or "libgthread" in reason:
        return "install the system's OpenGL library, such as libgl1, or pip install opencv-python-headless"
    return f"pip install --force-reinstall --no-deps {name}=={_version(name)}"


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
