"""What runs a `.safetensors` file: the one place that reads `--backend`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from iccld_cli.errors import IccldError, reason_of
from iccld_cli.inference.cache import cache_folder, named_folder
from iccld_cli.inference.model import Model, Sampling

_INSTALL_OPENVINO = "install it with: pip install openvino"


def open_backend(path: Path, device: str, backend: str, sampling: Sampling, tell: Callable[[str], None]) -> Model:
    """Open a `.safetensors` file; see `inference.model.load_model`.

    Raises:
        IccldError: See there.
    """
    if backend == "onnx":
        raise IccldError(f"{path} is no .onnx file", "give one that `iccld export --format onnx` wrote")
    if backend == "openvino":
        return _openvino(path, device, sampling, tell)
    if backend == "auto" and _suits_openvino(path, device, sampling):
        from iccld_cli.inference.openvino_model import OpenvinoModel

        try:
            return OpenvinoModel.open(
                path, sampling.steps, once=sampling.once, before_conversion=lambda: announce_conversion(tell)
            )
        except IccldError:
            raise
        except Exception as error:  # it was not asked for, so that whatever is wrong with it stops no prediction
            tell(f"OpenVINO cannot run this model ({reason_of(error)}); torch does, more slowly")
    from iccld_cli.inference.torch_model import TorchModel

    model = TorchModel.open(path, device).folded()
    if backend == "compiled":
        model.compile()
    return model


def _openvino(path: Path, device: str, sampling: Sampling, tell: Callable[[str], None]) -> Model:
    """OpenVINO, which was asked for by name."""
    from iccld_cli.inference.openvino_model import OpenvinoModel

    if device not in ("auto", "cpu"):
        raise IccldError(f"OpenVINO runs on the CPU here, not on {device!r}", "leave --backend out")
    if sampling.samples > 1:
        raise IccldError("OpenVINO takes one noise sample", "use --backend torch for more")
    if importlib.util.find_spec("openvino") is None:
        raise IccldError("OpenVINO is not installed", _INSTALL_OPENVINO)
    try:
        return OpenvinoModel.open(
            path, sampling.steps, once=sampling.once, before_conversion=lambda: announce_conversion(tell)
        )
    except IccldError:
        raise
    except ImportError as error:
        raise IccldError(f"OpenVINO cannot be imported ({error})", _INSTALL_OPENVINO) from None
    except Exception as error:  # of the conversion and of the runtime: their own kinds
        raise IccldError(f"OpenVINO cannot run {path} ({reason_of(error)})", "use --backend torch") from None


def _suits_openvino(path: Path, device: str, sampling: Sampling) -> bool:
    """Whether OpenVINO is the fastest for this.

    A single frame is not worth a conversion; it is when that was made before.
    """
    if device not in ("auto", "cpu") or sampling.samples > 1 or importlib.util.find_spec("openvino") is None:
        return False
    if device == "auto" and may_have_cuda():
        from iccld_cli.inference.device import pick_device

        if pick_device(device).type != "cpu":
            return False
    if not sampling.once:
        return True
    from iccld_cli.inference.openvino_model import is_converted

    return is_converted(path, sampling.steps)


def convert_for_next_time(path: Path, model: Model, sampling: Sampling, tell: Callable[[str], None]) -> None:
    """After a single frame that torch predicted: convert the file, if that is what would run it faster.

    Args:
        path: The model's file.
        model: What predicted it.
        sampling: What it was asked.
        tell: Called with a line before the conversion.
    """
    if path.suffix != ".safetensors" or model.backend != "torch" or cache_folder() is None:
        return
    if not _suits_openvino(path, model.device, replace(sampling, once=False)):
        return
    from iccld_cli.inference.openvino_model import OpenvinoModel

    try:
        OpenvinoModel.open(
            path,
            sampling.steps,
            before_conversion=lambda: tell("converting the model for this processor, so that next time starts faster"),
        )
    except Exception as error:  # the prediction is made; the next run tries again, and says what is wrong
        tell(f"OpenVINO cannot run this model ({reason_of(error)})")


def may_have_cuda() -> bool:
    """Whether it is worth importing torch to ask: a driver is there, and a torch that is not for the CPU alone."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    if version.endswith("+cpu") or sys.platform == "darwin":
        return False
    return bool(shutil.which("nvidia-smi")) or any(os.path.exists(p) for p in ("/dev/nvidia0", "/dev/dxg"))


def announce_conversion(tell: Callable[[str], None]) -> None:
    """Say that a model is being converted, and where the result cannot be kept."""
    if cache_folder() is None:
        tell(
            f"converting the model for this processor; it cannot be kept: {named_folder()} is no folder of this user "
            "alone that can be written to (ICCLD_CACHE names another)"
        )
    else:
        tell("converting the model for this processor, once; this takes some seconds")
