"""Image files: which names are taken for them, and how good a JPEG is."""

from __future__ import annotations

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif"})
IMAGE_SUFFIXES = JPEG_SUFFIXES | {".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
"""Image files that are looked for, in lower case."""

DATA_QUALITY = 95
"""JPEG quality of frames that are trained on."""

RESULT_QUALITY = 92
"""JPEG quality of results that a user keeps."""

PREVIEW_QUALITY = 88
"""JPEG quality of pictures that are looked at: previews, overlays of a run, pages."""
