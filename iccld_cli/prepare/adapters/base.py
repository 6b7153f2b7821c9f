"""What every raw data set has in common: how its frames are listed, read and mapped to trainIds.

An adapter is one file: a class with a table from the ids its label files hold to class names, and a `scan`
that lists pairs of image and label. It is registered by one line in `iccld_cli.prepare.adapters`.
Adapters import no heavy library at module level, because the command line lists them for `--help`.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.labels import CITYSCAPES, IGNORE, LabelSpace

if TYPE_CHECKING:
    import numpy as np

    from iccld_cli.prepare.tree import Tree


@dataclass(frozen=True)
class RawFrame:
    """A frame of a raw data set, not yet read.

    Attributes:
        split: Split it belongs to.
        key: Its name within the split, without a suffix; may hold forward slashes. It becomes the file's
            name.
        image: Path of the image inside the tree.
        label: Path of the label inside the tree, whether it exists or not; None for unlabelled frames.
    """

    split: str
    key: str
    image: str
    label: str | None


@dataclass(frozen=True)
class Choice:
    """An option of one adapter, given as `--set <adapter>.<option>=<value>`.

    Attributes:
        default: Value when it is not given.
        values: The values it can take; None for free text.
        help: What it does, for the documentation and for errors.
    """

    default: str
    values: tuple[str, ...] | None
    help: str


class FileProblem(IccldError):
    """One raw file that cannot be used.

    Attributes:
        file: Its path inside the tree.
        reason: What is wrong with it; reads on after its name.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file, self.reason = file, reason


@contextlib.contextmanager
def blame(file: str) -> Iterator[None]:
    """Say which file an error inside the block is about."""
    try:
        yield
    except FileProblem:
        raise
    except IccldError as error:
        raise FileProblem(file, error.message) from None


class Adapter(abc.ABC):
    """Base class of the raw data sets.

    Attributes:
        name: Option on the command line (`--<name>`) and default name of the prepared data set.
        help: One line for `--help`.
        choices: Options of this data set.
        label_space: Classes that its labels are mapped to.
        ids: Raw id in the label file -> class name, or None where it is to be ignored. An id that is not in
            the table makes the frame a bad one, so that a wrong layout is noticed instead of learned.
        label_channel: Channel of the label files that holds the ids, R = 0; None where they have one channel only, so
            that a file of several different ones shows colours.
        covers: Class -> the class of `ids` that its pixels carry in these labels, where they are coarser than the
            label space.
        options: Values of `choices`, defaults filled in.
        tree: The files it reads.
        labelled: Whether the labels are wanted.
        passed_over: Names in label files that no table knows and whose areas were passed over, since somebody last
            emptied it.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    choices: ClassVar[Mapping[str, Choice]] = {}
    label_space: LabelSpace = CITYSCAPES
    ids: Mapping[int, str | None] = {}
    label_channel: ClassVar[int | None] = None
    covers: Mapping[str, str] = {}

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Bind the adapter to its files.

        Args:
            tree: Folder or archives as downloaded.
            options: Values for `choices`.
            labelled: False reads the images alone.

        Raises:
            IccldError: An option is unknown or has a value it cannot take.
        """
        self.tree = tree
        self.labelled = labelled
        self.passed_over: list[str] = []
        self.options = check_options(self.name, self.choices, options or {})

    @abc.abstractmethod
    def scan(self) -> Iterator[RawFrame]:
        """List the frames, in any order and without reading them.

        Raises:
            IccldError: The layout is not that of this data set.
        """

    def classes_known(self) -> tuple[str, ...] | None:
        """Names of the classes that the labels distinguish, in the order of the label space."""
        if not self.labelled:
            return None
        named = {name for name in self.ids.values() if name is not None}
        return tuple(name for name in self.label_space.names if name in named)

    def stamp(self, frame: RawFrame) -> tuple[str, str]:
        """What identifies this version of a frame's files.

        Returns:
            The sizes, which go into the data set's digest; and sizes with modification times or checksums, by
            which an interrupted run knows what it has done.
        """
        stamps = [None if path is None else self.tree.stamp(path) for path in (frame.image, frame.label)]
        sizes = ",".join("-" if s is None else str(s.size) for s in stamps)
        marks = ",".join("-" if s is None else str(s.mark) for s in stamps)
        return sizes, f"{sizes},{marks}"

    def stream(self, pending: Iterator[RawFrame]) -> Iterator[tuple[RawFrame, Any]]:
        """Pair each frame to be done with what the workers cannot fetch themselves (a video's decoded frame).

        Args:
            pending: Frames of `scan` that are not done yet.

        Yields:
            The frame; and uint8 (H, W, 3) RGB, or a string that says what is wrong with it, or None for
            `load`.
        """
        for frame in pending:
            yield frame, None

    def load(self, frame: RawFrame) -> tuple[bytes | np.ndarray, np.ndarray | None]:
        """Image and label of a frame; called in the workers.

        Raises:
            FileProblem: A file is missing, damaged, or holds unknown ids.
        """
        with blame(frame.image):
            image = self.read_image(frame)
        if frame.label is None:
            return image, None
        with blame(frame.label):
            return image, self.read_label(frame)

    def read_image(self, frame: RawFrame) -> bytes | np.ndarray:
        """The image: an encoded file, or uint8 (H, W, 3) RGB where the frame is generated."""
        return self.tree.read(frame.image)

    def read_label(self, frame: RawFrame) -> np.ndarray:
        """The label, mapped.

        Returns:
            uint8 (H, W) of trainIds, 255 = ignore.

        Raises:
            IccldError: The file is missing, damaged, or holds an id that the table lacks.
        """
        return self.map_with(frame, self.ids)

    def map_with(self, frame: RawFrame, ids: Mapping[int, str | None]) -> np.ndarray:
        """Read a frame's label file and map its ids by a table."""
        from iccld_cli.data.labelfiles import map_ids

        return map_ids(self.raw_ids(frame), ids, self.label_space)

    def raw_ids(self, frame: RawFrame) -> np.ndarray:
        """The ids of a frame's label file unmapped.

        Returns:
            (H, W), uint8 or uint16.

        Raises:
            IccldError: The file is missing, damaged, or shows colours.
        """
        from iccld_cli.data.labelfiles import decode_channels, refuse_colors

        assert frame.label is not None
        raw = decode_channels(self.tree.read(frame.label))
        if self.label_channel is None:
            refuse_colors(raw)
        return raw[..., self.label_channel or 0]

    def label_values(self, frame: RawFrame) -> dict[str, str | None]:
        """What a frame's label file holds, for the check before the run: each id with its class name.

        Raises:
            IccldError: The file is missing or damaged.
        """
        import numpy as np

        return {str(i): self.ids.get(int(i), "unknown") for i in np.unique(self.raw_ids(frame))}

    def findings(self) -> dict[str, Any]:
        """What the last `scan` found, as further fields of `dataset.json`."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What `dataset.json` records as `source`."""
        return {"adapter": self.name, "path": self.tree.describe(), "options": dict(self.options)}


def train_ids(space: LabelSpace) -> dict[int, str | None]:
    """The table of label files that hold trainIds already, 255 = ignore."""
    return {**dict(enumerate(space.names)), IGNORE: None}


def check_options(name: str, choices: Mapping[str, Choice], given: Mapping[str, str]) -> dict[str, str]:
    """Fill in the defaults of an adapter's options and refuse what it does not have.

    Raises:
        IccldError: An unknown option or value.
    """
    values = {key: choice.default for key, choice in choices.items()}
    for key, value in given.items():
        if key not in choices:
            hint = did_you_mean(key, choices) if choices else f"{name} has no options"
            raise IccldError(f"{name} has no option {key!r}", hint)
        allowed = choices[key].values
        if allowed is not None and value not in allowed:
            raise IccldError(f"{name}.{key} cannot be {value!r}", did_you_mean(value, allowed))
        values[key] = value
    return values
