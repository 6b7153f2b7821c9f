"""Imports go one way, and the command line starts without heavy libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "diffusers", "cv2", "kornia", "matplotlib", "av")


def test_layers():
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("module", ["iccld_cli.errors", "iccld_cli.labels", "iccld_cli.files", "iccld_cli.config"])
def test_light_modules_stay_light(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_a_model_without_a_unet_needs_no_diffusers():
    """It and what it brings along take seconds to import, in each process of a training of stage 1."""
    code = (
        "import sys, iccld_cli.train.run; from iccld_cli.config import load_config; "
        "from iccld_cli.models.build import build_segmenter; build_segmenter(load_config('tiny'), 5, denoiser=False); "
        "print(*[m for m in ('diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
