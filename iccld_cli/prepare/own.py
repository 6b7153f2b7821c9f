"""From what a user writes after `--images` and `--masks` to the files it means."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.images import Images, fixed_folder
from iccld_cli.prepare.archives import is_archive, open_tree
from iccld_cli.prepare.labelmap import LabelMap
from iccld_cli.prepare.storedtree import is_stored, stored_images
from iccld_cli.prepare.tree import FolderTree, GlobTree


def set_name(text: str) -> str:
    """A data set's name, which is a folder's, of a text that may hold anything."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-") or "images"


def own_images(pattern: str, masks: str | None, label_map: LabelMap | None, cache: Path) -> tuple[str, Images]:
    """Open own images.

    Args:
        pattern: Folder, archive, glob pattern, or template with `{placeholders}`; folder and template may be addresses
            in object storage.
        masks: Folder or template of the masks; None without labels.
        label_map: What the masks hold; None for trainIds.
        cache: Folder for uncompressed copies of compressed archives.

    Returns:
        A name for the data set, and its source.

    Raises:
        IccldError: Nothing lies there, or the forms of images and masks do not fit together.
    """
    templated = "{" in pattern
    coco = masks is not None and masks.lower().endswith(".json") and "{" not in masks
    if masks is not None and not coco and ("{" in masks) != templated:
        raise IccldError("--images and --masks must both be folders or both be templates", "write {frame} in both")
    if is_stored(pattern) or (masks is not None and is_stored(masks)):
        if not is_stored(pattern) or (masks is not None and not is_stored(masks)):
            raise IccldError("--images and --masks must both lie in object storage, or on a disk", "move one of them")
        name, tree, images, inside_masks = stored_images(pattern, masks)
        return name, Images(tree, images, inside_masks, label_map)
    if is_archive(Path(pattern)):
        if masks is not None:
            raise IccldError(f"masks beside the archive {pattern} cannot be paired", "unpack it first")
        return Path(pattern).name.split(".")[0], Images(open_tree(Path(pattern), cache))
    if not templated and not os.path.isdir(pattern) and glob.has_magic(pattern):
        if masks is not None:
            raise IccldError(f"masks cannot be paired with the glob {pattern}", "give a folder or a template")
        globbed = GlobTree(pattern)
        return globbed.root.name, Images(globbed)
    folder = FolderTree(fixed_folder(pattern)).root
    if masks is None:
        template = os.path.relpath(os.path.abspath(pattern), folder).replace(os.sep, "/")
        return folder.name, Images(FolderTree(folder), template if templated else None)
    if coco and not os.path.isfile(masks):
        raise IccldError(f"no annotation file at {masks}", "check the path")
    mask_folder = FolderTree(Path(masks).parent if coco else fixed_folder(masks)).root
    root = Path(os.path.commonpath([folder, mask_folder]))
    inside = [os.path.relpath(os.path.abspath(p), root).replace(os.sep, "/") for p in (pattern, masks)]
    inside = ["" if path == "." else path for path in inside]
    return folder.name, Images(FolderTree(root), inside[0], inside[1], label_map)
