"""Own images: a folder, an archive, a glob pattern, or a path template with splits and several cameras.

Their labels are PNG files, or the JSON of an annotation tool, which may lie beside the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iccld_cli.errors import IccldError
from iccld_cli.imagefiles import IMAGE_SUFFIXES
from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import Adapter, RawFrame, blame, train_ids
from iccld_cli.prepare.labelmap import LabelMap
from iccld_cli.prepare.tree import Tree, join, suffix

if TYPE_CHECKING:
    import numpy as np

    from iccld_cli.prepare.shapes import Shape

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
JSON = ".json"
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
        self.unannotated = self.listed = 0
        self.coco = suffix(masks or "") == JSON and not _PLACEHOLDER.search(masks or "")
        self.by_template = bool(_PLACEHOLDER.search(self.template))
        names = _PLACEHOLDER.findall(self.template)
        for name in _PLACEHOLDER.findall(masks or ""):
            if name not in names:
                raise IccldError(f"the masks' template uses {{{name}}}, which the images' template lacks")

    def scan(self) -> Iterator[RawFrame]:
        """List the images.

        Raises:
            IccldError: Labels are to lie beside the images, and there are none.
        """
        self.unannotated = self.listed = 0
        if self.by_template:
            yield from self._scan_template()
            return
        files = set() if self.masks is None or self.coco else self._annotations(self.masks)
        # A file of another name says nothing about the images: it must not make missing masks pass for unlabelled ones.
        annotated = bool(files) and any(
            join(self.masks or "", f"{self._key(image)}{JSON}") in files for image in self._images()
        )
        if self.masks == self.template and not annotated:
            raise IccldError(
                f"{join(self.tree.describe(), self.template)} holds no annotation files (.json) beside its images",
                "give the folder that the masks or annotations lie in",
            )
        for image in self._images():
            key = self._key(image)
            yield RawFrame("train", key, image, self._label(image, key, annotated))

    def _images(self) -> Iterator[str]:
        return (path for path in self.tree.walk(self.template) if suffix(path) in IMAGE_SUFFIXES)

    def _key(self, image: str) -> str:
        return image[len(self.template) :].lstrip("/").rsplit(".", 1)[0]

    def _annotations(self, folder: str) -> set[str]:
        return {path for path in self.tree.walk(folder) if suffix(path) == JSON}

    def _label(self, image: str, key: str, annotated: bool) -> str | None:
        """Where an image's label lies: a PNG, else an annotation file; None where only others were annotated."""
        if self.masks is None or self.coco:
            return self._in_coco(image)
        png = join(self.masks, f"{key}.png")
        if not annotated:
            return png
        if png != image and self.tree.stamp(png) is not None:
            self.listed += 1
            return png
        return self._if_annotated(join(self.masks, f"{key}{JSON}"))

    def _in_coco(self, image: str) -> str | None:
        """The file of COCO, where it has annotations of the image."""
        if self.masks is None:
            return None
        from iccld_cli.prepare.coco import read_coco

        self.listed += 1
        with blame(self.masks):
            if read_coco(self.tree, self.masks).name_of(self._below(image)) is not None:
                return self.masks
        self.unannotated += 1
        return None

    def _below(self, image: str) -> str:
        """An image's path below the images' folder."""
        folder = self.template[: self.template.index("{")].rpartition("/")[0] if self.by_template else self.template
        return image[len(folder) :].lstrip("/")

    def _if_annotated(self, path: str) -> str | None:
        self.listed += 1
        if self.tree.stamp(path) is not None:
            return path
        self.unannotated += 1
        return None

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
                label = self._in_coco(image) if self.coco else fill(self.masks, values)
                label = self._if_annotated(label) if label and not self.coco and suffix(label) == JSON else label
            yield RawFrame(_SPLITS.get(split, split), key or image.rsplit("/", 1)[-1], image, label)

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The mask or the drawn shapes, by the label map."""
        assert frame.label is not None
        if suffix(frame.label) != JSON:
            return self.map.decode(self.tree.read(frame.label))
        from iccld_cli.prepare.shapes import Pens, draw

        shapes, size = self._shapes(frame)
        pens = Pens(self.map.line_width, self.map.point_size)
        size = size or self._image_size(frame)
        return draw(shapes, size, self.map.by_name, self.map.space, pens, self.map.strict)

    def _shapes(self, frame: RawFrame) -> tuple[list[Shape], tuple[int, int] | None]:
        """What was drawn on a frame, and its (width, height) where the file says it."""
        from iccld_cli.prepare.coco import read_coco
        from iccld_cli.prepare.labelme import read_labelme

        assert frame.label is not None
        if not self.coco:
            return read_labelme(self.tree.read(frame.label))
        file = read_coco(self.tree, frame.label)
        name = file.name_of(self._below(frame.image))
        assert name is not None
        return file.shapes(name), file.sizes[name]

    def _image_size(self, frame: RawFrame) -> tuple[int, int]:
        """(width, height) of an image as it is shown."""
        from iccld_cli.data.checks import check_header

        _, width, height, orientation = check_header(self.tree.read(frame.image))
        return (height, width) if orientation >= 5 else (width, height)

    def findings(self) -> dict[str, Any]:
        """How many images have no annotation, where others have."""
        if not self.unannotated:
            return {}
        text = f"{self.unannotated} of {self.listed} images have no annotation; they were taken without a label"
        return {"notices": [text]}

    def label_values(self, frame: RawFrame) -> dict[str, str | None]:
        """Ids of the mask or names of the shapes, with their classes; nothing where the mask holds colours."""
        import numpy as np

        from iccld_cli.data.labelfiles import decode_ids

        assert frame.label is not None
        other = "unknown" if self.map.strict else None
        if suffix(frame.label) == JSON:
            return self._names_in(frame, other)
        if self.map.ids is None:
            return {}
        ids = decode_ids(self.tree.read(frame.label), self.map.channel)
        return {str(i): self.map.ids.get(int(i), other) for i in np.unique(ids)}

    def _names_in(self, frame: RawFrame, other: str | None) -> dict[str, str | None]:
        from iccld_cli.prepare.shapes import class_of

        found: dict[str, str | None] = {}
        for shape in self._shapes(frame)[0]:
            try:
                found[shape.name] = class_of(shape.name, self.map.by_name, self.map.space)
            except KeyError:
                found[shape.name] = other
        return found

    def classes_known(self) -> tuple[str, ...] | None:
        """The classes that the label map names; None without masks."""
        return self.map.names() if self.labelled else None

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` records as `source`."""
        options = {"images": self.template, "masks": self.masks}
        if self.labelled:
            table = self.map.ids if self.map.ids is not None else self.map.colors or {}
            options["label_map"] = {str(key): name for key, name in table.items()}  # type: ignore[assignment]
            if self.map.by_name is not None:
                options["names"] = dict(self.map.by_name)  # type: ignore[assignment]
            pens = (self.map.line_width, self.map.point_size)
            if pens != (LabelMap.line_width, LabelMap.point_size):
                options["pens"] = list(pens)  # type: ignore[assignment]
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
