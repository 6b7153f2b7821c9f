"""Crops of the target that have labels: of whole frames, or of points and scribbles with the rest ignored.

A crop is cut around a labelled pixel, so that it holds one however few there are. Frames and pixels are drawn so that
rare classes are seen often, as those of the source are.

Labels may be coarser than the classes that are learnt: where every vehicle is labelled car, a truck is too. Such pixels
get a number of their own, behind the trainIds, that stands for all classes they may show (`groups`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iccld_cli.data.batches import FramePool, fit_scale, fold_counts
from iccld_cli.data.crops import anchored_box, cut_image, cut_marks
from iccld_cli.data.sampling import RareClassSampler
from iccld_cli.errors import IccldError
from iccld_cli.labels import IGNORE
from iccld_cli.sections import DataConfig


@dataclass(frozen=True)
class Meaning:
    """What the labels of several data sets say about the classes that are learnt.

    Attributes:
        tables: For each data set uint8 (256,): label -> trainId, or K + number of a group, or 255.
        groups: TrainIds that a pixel of a group may show.
    """

    tables: tuple[np.ndarray, ...]
    groups: tuple[tuple[int, ...], ...]


def meaning_of(
    covers: Sequence[Mapping[int, int]], classes: Sequence[int], folds: Mapping[int, int], count: int
) -> Meaning:
    """Relate labels to the classes that are learnt.

    Args:
        covers: For each data set: trainId that its labels lack -> trainId that its pixels carry.
        classes: TrainIds that are learnt.
        folds: TrainId of a label -> the one of `classes` that it is learnt as.
        count: K, classes of the label space.

    Raises:
        IccldError: There is no room for the groups in a byte.
    """
    tables, groups = [], []
    learnt = {**{i: i for i in classes}, **folds}
    for of in covers:
        table = np.full(256, IGNORE, np.uint8)
        table[list(learnt)] = list(learnt.values())
        for coarse in sorted(set(of.values())):
            shown = {learnt[i] for i in (coarse, *(fine for fine, c in of.items() if c == coarse)) if i in learnt}
            if len(shown) == 1:
                table[coarse] = next(iter(shown))
            elif shown:
                group = tuple(sorted(shown))
                if group not in groups:
                    groups.append(group)
                table[coarse] = count + groups.index(group)
        tables.append(table)
    if count + len(groups) > IGNORE:
        raise IccldError(f"{count} classes are too many for labels that stand for several of them")
    return Meaning(tuple(tables), tuple(groups))


class AnnotatedCrops:
    """Draws labelled crops of the target.

    Attributes:
        meaning: What the labels say.
    """

    def __init__(
        self, config: DataConfig, pool: FramePool, meaning: Meaning, folds: Mapping[int, int], height: float
    ) -> None:
        """Prepare drawing.

        Args:
            config: Crops and sampling.
            pool: Labelled frames; those without a pixel to learn from are passed over.
            meaning: What their labels say, one table for each of the pool's data sets.
            folds: See `TrainingBatches`.
            height: Rows of a frame at scale 1, as of the unlabelled target.

        Raises:
            IccldError: A data set has no pixel to learn from.
        """
        self.config, self.meaning, self.height = config, meaning, height
        self._learnt = [frozenset(np.flatnonzero(table != IGNORE).tolist()) for table in meaning.tables]
        usable = tuple((of, f) for of, f in pool.frames if f.label is not None and self._shows(of, f.pixels))
        self.pool = FramePool(pool.datasets, usable)
        for number, dataset in enumerate(pool.datasets):
            if all(of != number for of, _ in usable):
                raise IccldError(
                    f"{dataset.root} has no labelled pixel of the classes trained on",
                    "see its class table in `iccld inspect`; is its label map right?",
                )
        self._fold = np.arange(256, dtype=np.uint8)
        self._fold[list(folds)] = list(folds.values())
        ids = sorted({int(self._fold[i]) for learnt in self._learnt for i in learnt})
        # One pixel is enough to be drawn for: there may be no more.
        self.sampler = RareClassSampler(
            [fold_counts(frame, folds) for _, frame in usable], ids, config.rare_class_temperature, min_pixels=1
        )

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, str]:
        """A crop.

        Args:
            rng: Random generator.

        Returns:
            uint8 (h, w, 3) RGB; uint8 (h, w) of trainIds and groups, 255 ignored; and a name for messages.
        """
        index, wanted = self.sampler.draw(rng)
        image, label, name = self.pool.read(index, label=True)
        assert label is not None
        table = self.meaning.tables[self.pool.frames[index][0]]
        rows, columns = np.nonzero(self._fold[label] == wanted if wanted is not None else table[label] != IGNORE)
        size, crop = label.shape[::-1], self.config.crop
        scale = fit_scale(self.height / size[1] * rng.uniform(*self.config.target_scale), size, crop)
        place = int(rng.integers(max(len(rows), 1)))
        anchor = (int(columns[place]), int(rows[place])) if len(rows) else (size[0] // 2, size[1] // 2)
        box = anchored_box(size, crop, scale, anchor, rng)
        return cut_image(image, box, crop), cut_marks(table[label], box, crop), name

    def _shows(self, number: int, pixels: Mapping[int, int] | None) -> bool:
        return pixels is None or any(pixels.get(i, 0) for i in self._learnt[number])
