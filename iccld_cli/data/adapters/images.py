"""Own images without labels: a folder or a glob pattern."""

from __future__ import annotations

from collections.abc import Iterator

from iccld_cli.data.adapters.base import IMAGE_SUFFIXES, Adapter, RawFrame
from iccld_cli.data.tree import suffix


class Images(Adapter):
    """Every image below a folder, as unlabelled training frames."""

    name = "images"
    help = "Own images: a folder or a glob pattern."

    def scan(self) -> Iterator[RawFrame]:
        """List the images."""
        for image in self.tree.walk():
            if suffix(image) in IMAGE_SUFFIXES:
                yield RawFrame("train", image.rsplit(".", 1)[0], image, None)

    def classes_known(self) -> tuple[str, ...] | None:
        """Nothing is known without labels."""
        return None
