"""BDD100K, the 10k images with semantic segmentation, 1280x720."""

from __future__ import annotations

from collections.abc import Mapping

from iccld_cli.labels import CITYSCAPES
from iccld_cli.prepare.adapters.base import train_ids
from iccld_cli.prepare.adapters.official import OfficialSet, Part
from iccld_cli.prepare.layouts import Layout

_IMAGE = r"(?P<split>train|val|test)/(?P<name>[^/]+)\.jpg"

BDD100K_BAD_LABELS: dict[str, str] = dict.fromkeys(
    (
        "3d581db5-2564fb7e",
        "52e3fd10-c205dec2",
        "781756b0-61e0a182",
        "78ac84ba-07bd30c2",
        "80a9e37d-e4548ac1",
        "9342e334-33d167eb",
    ),
    "is upright (720x1280), its label is of another view",
)
"""Of today's download: bdd100k/bdd100k, issues 103 and 127. The release of 2018 has none of them."""


class Bdd100k(OfficialSet):
    """`images/10k/<split>/*.jpg` and `labels/sem_seg/masks/<split>/*.png`, or the older `seg/images`, `seg/labels`.

    Labels are 8-bit trainIds, 255 = ignore.
    """

    name = "bdd100k"
    help = "BDD100K, the 10k images of semantic segmentation."
    ids = train_ids(CITYSCAPES)
    layouts = (
        Layout(
            f"images/10k/{_IMAGE}",
            (r"labels/sem_seg/masks/(?P<split>train|val)/(?P<name>[^/]+)\.png",),
            "labels/sem_seg/masks/{split}/{name}.png",
            r"images/10k/",
        ),
        Layout(  # the release of 2018
            f"seg/images/{_IMAGE}",
            (r"seg/labels/(?P<split>train|val)/(?P<name>[^/]+)_train_id\.png",),
            "seg/labels/{split}/{name}_train_id.png",
            r"seg/images/",
        ),
    )
    expected = "images/10k/ or seg/images/"
    label_archive = "bdd100k_sem_seg_labels_trainval.zip"
    # bdd100k/bdd100k, doc/source/download.rst; mseg-dataset/mseg-api, mseg/dataset_lists/bdd.
    official: Mapping[str, Part] = {
        "train": Part(7000, "10k_images_train.zip"),
        "val": Part(1000, "10k_images_val.zip"),
        "test": Part(2000, "10k_images_test.zip"),
    }
    bad_labels = BDD100K_BAD_LABELS
