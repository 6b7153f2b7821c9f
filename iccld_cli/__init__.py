"""ICCLD: adversarially domain-adaptive latent diffusion for unsupervised semantic segmentation.

Source of the method: Yu, Sun, Chi, Yang, Luo, arXiv 2412.16859.

    from iccld_cli import load

    result = load("stage2.safetensors").predict("frame.jpg")  # result.labels, .confidence, .overlay(), .names

See `iccld_cli.inference.api`. Importing this package imports nothing else; torch comes with the first `load`.
"""

import os as _os

__version__ = "0.1.0"

# No part of this program reports to anyone. Read by huggingface_hub, transformers and diffusers when they are imported.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    _os.environ.setdefault(_name, "1")


def __getattr__(name: str) -> object:
    """`load`, imported when it is first asked for."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module("iccld_cli.inference.api").load


def __dir__() -> list[str]:
    return [*globals(), "load"]
