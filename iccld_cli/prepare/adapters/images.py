"""Own images: a folder, an archive, a glob pattern, or a path template with splits and several cameras."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import Adapter, RawFrame, train_ids
from iccld_cli.prepare.labelmap import LabelMap
from iccld_cli.prepare.tree import Tree, join, suffix

if TYPE_CHECKING:
    import numpy as np

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SPLITS = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}


class Images(Adapter):
    """Images below a folder, as training frames, with masks in a parallel folder if wanted.

    As templates, `rec/{camera}/rgb/{frame}.png` and `rec/{camera}/seg/{frame}_id.png` pair images and masks by their
    placeholders; a placeholder stands for one path part or a piece of it. `{split}` sorts frames into splits;
    the others, in their order, make the frame's name.
    """

    name = "images"
    help = "Own images: a folder or a glob pattern."

    def __init__(
        self,
        tree: Tree,
        template: str | None = None,
        masks: str | None = None,
        label_map: LabelMap | None = None,
    ) -> None:
        """Bind to files.

        Args:
            tree: Where images and masks lie.
            template: Template of the images' paths inside the tree, or the folder that holds them; None for all files.
            masks: Template or folder of the masks' paths inside the tree; None without labels.
            label_map: What the masks hold; None for trainIds of Cityscapes, 255 = ignore.

        Raises:
            IccldError: The masks' template has a placeholder that the images' template lacks.
        """
        super().__init__(tree, labelled=masks is not None)
        self.map = label_map or LabelMap(CITYSCAPES, train_ids(CITYSCAPES))
        self.label_space = self.map.space
        self.covers = self.map.covers
        self.template, self.masks = template or "", masks
        self.by_template = bool(_PLACEHOLDER.search(self.template))
        names = _PLACEHOLDER.findall(self.template)
        for name in _PLACEHOLDER.findall(masks or ""):
            if name not in names:
                raise IccldError(f"the masks' template uses {{{name}}}, which the images' template lacks")

    def scan(self) -> Iterator[RawFrame]:
        """List the images."""
        if self.by_template:
            yield from self._scan_template()
            return
        for image in self.tree.walk(self.template):
            if suffix(image) in IMAGE_SUFFIXES:
                key = image[len(self.template) :].lstrip("/").rsplit(".", 1)[0]
                label = None if self.masks is None else join(self.masks, f"{key}.png")
                yield RawFrame("train", key, image, label)

    def _scan_template(self) -> Iterator[RawFrame]:
        fixed = self.template[: self.template.index("{")]
        pattern = template_pattern(self.template)
        for image in self.tree.walk(fixed.rpartition("/")[0]):
            found = pattern.fullmatch(image)
            if not found or suffix(image) not in IMAGE_SUFFIXES:
                continue
            values = found.groupdict()
            split = values.get("split", "train")
            key = join(*(value for name, value in values.items() if name != "split"))
            label = None
            if self.masks is not None:
                label = fill(self.masks, values)
            yield RawFrame(_SPLITS.get(split, split), key or image.rsplit("/", 1)[-1], image, label)

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The mask, by the label map."""
        assert frame.label is not None
        return self.map.decode(self.tree.read(frame.label))

    def label_values(self, frame: RawFrame) -> dict[str, str | None]:
        """Ids of the mask with their class names, where it holds ids; nothing where it holds colours."""
        import numpy as np

        from iccld_cli.data.labelfiles import decode_ids

        assert frame.label is not None
        if self.map.ids is None:
            return {}
        other = "unknown" if self.map.strict else None
        ids = decode_ids(self.tree.read(frame.label), self.map.channel)
        return {str(i): self.map.ids.get(int(i), other) for i in np.unique(ids)}

    def classes_known(self) -> tuple[str, ...] | None:
        """The classes that the label map names; None without masks."""
        return self.map.names() if self.labelled else None

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` records as `source`."""
        options = {"images": self.template, "masks": self.masks}
        if self.labelled:
            table = self.map.ids if self.map.ids is not None else self.map.colors or {}
            options["label_map"] = {str(key): name for key, name in table.items()}  # type: ignore[assignment]
            if self.covers:
                options["covers"] = dict(self.covers)  # type: ignore[assignment]
        return {"adapter": self.name, "path": self.tree.describe(), "options": options}


def fill(template: str, values: dict[str, str]) -> str:
    """Put values in place of a template's placeholders."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def template_pattern(template: str) -> re.Pattern[str]:
    """A pattern that matches a whole path; a placeholder that comes twice must stand for the same text."""
    parts, seen, end = [], set(), 0
    for found in _PLACEHOLDER.finditer(template):
        parts.append(re.escape(template[end : found.start()]))
        name = found[1]
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)")
        seen.add(name)
        end = found.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def fixed_folder(template: str) -> Path:
    """The folder of a template before its first placeholder."""
    parts = Path(template).parts
    first = next((i for i, part in enumerate(parts) if _PLACEHOLDER.search(part)), len(parts))
    return Path(*parts[:first]) if first else Path(".")
