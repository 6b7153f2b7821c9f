"""ICCLD: adversarially domain-adaptive latent diffusion for unsupervised semantic segmentation.

Source of the method: Yu, Sun, Chi, Yang, Luo, arXiv 2412.16859.

    from iccld_cli import load

    result = load("stage2.safetensors").predict("frame.jpg")  # result.labels, .confidence, .overlay(), .names

See `iccld_cli.inference.api`, and `iccld_cli.calls` for `prepare_data`, `adapt_seg` and `adapt_adv`. Importing this
package imports nothing else; torch comes with the first `load`.
"""

import os as _os

__version__ = "0.1.0"

# No part of this program reports to anyone. Read by huggingface_hub, transformers and diffusers when they are imported.
for _name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    _os.environ.setdefault(_name, "1")


# None of them may have the name of a subpackage, which importing that would put in its place.
_FUNCTIONS = {
    "load": "iccld_cli.inference.api",
    "prepare_data": "iccld_cli.calls",
    "adapt_seg": "iccld_cli.calls",
    "adapt_adv": "iccld_cli.calls",
    "adapt_footage": "iccld_cli.calls",
}


def __getattr__(name: str) -> object:
    """The public functions, imported when they are first asked for."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_FUNCTIONS[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_FUNCTIONS]
