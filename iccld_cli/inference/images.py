"""Images in and out of the network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from iccld_cli.errors import IccldError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".jfif"})
MAX_PIXELS = 100_000_000
"""A file may hold a few kilobytes and claim gigabytes; larger images are refused before decoding."""


BATCH_PIXELS = 4_000_000
"""On a GPU, a batch of this many pixels keeps it busy and fits into 8 GB."""


def read_image(path: Path | str) -> np.ndarray:
    """Decode an image, upright (EXIF rotation applied).

    Pillow rather than OpenCV, because it refuses truncated files, where OpenCV returns a half-grey image.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        IccldError: The file is missing, not an image, truncated, or larger than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise IccldError(
                        f"{path} claims {width}x{height} pixels, more than {MAX_PIXELS // 1_000_000} million",
                        "scale it down first",
                    )
                upright = ImageOps.exif_transpose(image)
                if upright.mode == "F":  # Pillow would clip 0..1 to black
                    raise IccldError(f"{path} holds floating-point values of no known range", "save it with 8 bits")
                if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
                    grey = np.clip(np.asarray(upright, np.int32) >> 8, 0, 255).astype(np.uint8)
                    return np.repeat(grey[..., None], 3, axis=2)
                return np.array(upright.convert("RGB"))
    except FileNotFoundError:
        raise IccldError(f"no image at {path}") from None
    except UnidentifiedImageError:
        raise IccldError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise IccldError(f"{path} is too large ({error})", "scale it down first") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise IccldError(f"cannot read image {path} ({error})", "the file is damaged or cut off") from None


def to_tensor(images: Sequence[np.ndarray], device: torch.device | str = "cpu") -> torch.Tensor:
    """Stack images of equal size for the network.

    Args:
        images: uint8 (H, W, 3), RGB, in [0, 255].
        device: Where the tensor shall be.

    Returns:
        float32 (B, 3, H, W) in [0, 1].
    """
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    return stacked.to(device).permute(0, 3, 1, 2).to(torch.float32).div_(255)  # bytes cross the bus, not floats


def auto_batch_size(image: np.ndarray, device: torch.device) -> int:
    """How many images of this size go through the network at once where nobody says: 1 on a CPU."""
    pixels = image.shape[0] * image.shape[1]
    return max(1, min(32, BATCH_PIXELS // pixels)) if device.type == "cuda" else 1


def normalised_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """How undecided a prediction is.

    Args:
        probabilities: Float (..., K, H, W), summing to 1 over K.

    Returns:
        (..., H, W) in [0, 1]: entropy / log K; 0 = certain, 1 = all classes equally likely.
    """
    classes = probabilities.shape[-3]
    return torch.special.entr(probabilities).sum(dim=-3).div_(math.log(max(classes, 2))).clamp_(0, 1)
