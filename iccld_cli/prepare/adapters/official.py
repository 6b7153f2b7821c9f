"""What the published data sets have in common: known layouts, known-bad frames, and how many frames they hold.

Everything else about them stays strict: a frame that cannot be used and is not in the table of known-bad ones stops
the run as in any other set.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from iccld_cli.errors import IccldError
from iccld_cli.prepare.adapters.base import Adapter, RawFrame

if TYPE_CHECKING:
    from iccld_cli.prepare.layouts import Found, Layout
    from iccld_cli.prepare.tree import Tree

_LOOKED_AT = 100_000


@dataclass(frozen=True)
class Part:
    """What a set officially holds of one split.

    Attributes:
        frames: Number of images.
        archive: Name of the download that holds them, empty where it is not known.
        optional: Whether many do without it, so that its absence is not worth a word.
    """

    frames: int
    archive: str = ""
    optional: bool = False


class OfficialSet(Adapter):
    """Base class of the sets whose layout, size and flaws are known.

    Attributes:
        layouts: How its files may be named.
        expected: What should be there, for the error when nothing is.
        official: Frames of each split.
        known_bad: Frame name -> what is wrong with it in everybody's copy. They are left out.
        bad_labels: The same of frames whose image can be used alone. They are left out where labels are wanted.
        label_splits: Splits that come with labels.
        needs_labels: Whether the set is of use with labels only, being a source.
        label_archive: Name of the download that holds the labels.
        extras: Regular expression of the names of further files that belong to the set.
        told_by_names: Whether its images' paths are like those of no other set.
    """

    layouts: ClassVar[tuple[Layout, ...]] = ()
    expected: ClassVar[str] = ""
    official: Mapping[str, Part] = {}
    known_bad: Mapping[str, str] = {}
    bad_labels: Mapping[str, str] = {}
    label_splits: ClassVar[tuple[str, ...]] = ("train", "val")
    needs_labels: ClassVar[bool] = False
    label_archive: ClassVar[str] = ""
    extras: ClassVar[str] = ""
    told_by_names: ClassVar[bool] = True

    def __init__(self, tree: Tree, options: Mapping[str, str] | None = None, labelled: bool = True) -> None:
        """Bind the adapter to its files, see `Adapter`."""
        super().__init__(tree, options, labelled)
        self._found: Found | None = None
        self._left_out: list[dict[str, str]] = []
        self._notices: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """For the workers: without the list of files."""
        return {**self.__dict__, "_found": None}

    def place(self, groups: Mapping[str, str]) -> tuple[str, str] | None:
        """Split and name of the frame whose path has these groups, None where it is not wanted."""
        return groups.get("split") or "train", groups["name"]

    def group(self, split: str, name: str) -> str:
        """What shares a folder of labels: where one frame of it has a label, all must have one."""
        return split

    def find(self) -> Found:
        """Walk the tree, once.

        Raises:
            IccldError: Nothing of this set is there.
        """
        if self._found is None:
            from iccld_cli.prepare.layouts import collect

            found = collect(self.tree, self.layouts, self.place, self.extras)
            if not found.images:
                raise self.nothing(found)
            self._found = found
        return self._found

    def nothing(self, found: Found) -> IccldError:
        """The error that says that no frame is there, and why, as far as is known."""
        other = self._other_set()
        hint = found.hint() or self.diagnosis() or f"{other}expected {self.expected} there"
        return IccldError(f"no {self.title()} in {self.tree.describe()}", hint)

    def diagnosis(self) -> str:
        """What the files are instead, where this set can tell; empty where it cannot."""
        return ""

    def title(self) -> str:
        """The set's name as its makers write it."""
        return self.help.split(",")[0].split(";")[0].split(" (")[0].rstrip(".")

    def _other_set(self) -> str:
        from iccld_cli.prepare.adapters import ADAPTERS

        others = [(name, a) for name, a in ADAPTERS.items() if name != self.name and issubclass(a, OfficialSet)]
        patterns = [
            (name, re.compile(f"(?:^|/){layout.images}$"))
            for name, adapter in others
            if adapter.told_by_names
            for layout in adapter.layouts
        ]
        for path in itertools.islice(self.tree.walk(), _LOOKED_AT):
            for name, pattern in patterns:
                if pattern.search(path):
                    return f"{path} looks like --{name}; "
        return ""

    def scan(self) -> Iterator[RawFrame]:
        """List the frames that can be used; what is left out and what is missing is in `findings` afterwards."""
        from iccld_cli.prepare.layouts import Chooser, missing_labels

        found, chooser = self.find(), Chooser(self.tree)
        self._left_out, self._notices = [], []
        groups = self._labelled_groups(found)
        counts: Counter[str] = Counter()
        without = 0
        for (split, name), paths in sorted(found.images.items()):
            counts[split] += 1
            labelled = self.group(split, name) in groups
            reason = self.known_bad.get(name) or (self.bad_labels.get(name) if labelled else None)
            if reason:
                self._left_out.append({"file": min(paths), "reason": reason})
                continue
            image, label = chooser.one(paths), None
            if labelled:
                kinds = found.labels.get((split, name))
                without += not kinds
                label = chooser.one(kinds[min(kinds)]) if kinds else missing_labels(found, (split, name))
            yield RawFrame(split, name, image, label)
        self._take_note(found, counts, without, groups)
        if chooser.copies:
            self._notices.append(f"{chooser.copies:,} files are there more than once; each was taken once")
        if chooser.replaced:
            text = "unpacked files differ from their packed form; the unpacked ones were taken"
            self._notices.append(f"{chooser.replaced:,} {text}")

    def _labelled_groups(self, found: Found) -> set[str]:
        if not self.labelled:
            return set()
        groups = {self.group(*key) for key in found.labels if key in found.images}
        if self.needs_labels and not groups:
            lost = f"is {self.label_archive} missing? " if self.label_archive else ""
            raise IccldError(
                f"the {self.title()} in {self.tree.describe()} has images but no labels that belong to them",
                found.hint() or self.diagnosis() or f"{lost}expected {self.expected} there",
            )
        return groups

    def _take_note(self, found: Found, counts: Counter[str], without: int, groups: set[str]) -> None:
        if line := self.difference(counts):
            hint = found.hint()
            self._notices.append(f"{line}; {hint}" if hint else line)
        if without:
            lost = f": is {self.label_archive} missing or incomplete?" if self.label_archive else ""
            self._notices.append(f"{without:,} of {sum(counts.values()):,} frames have no label{lost}")
        have = {group.split("/")[0] for group in groups}
        bare = [split for split in self.label_splits if counts[split] and split not in have]
        if groups and bare:
            self._notices.append(f"{' and '.join(bare)}: no labels are there, so the images were taken alone")
        if self.labelled and not groups:
            lost = f" (they come as {self.label_archive})" if self.label_archive else ""
            self._notices.append(f"no labels are there{lost}, so the images were taken alone")
        if found.stray_count:
            files = "1 image is" if found.stray_count == 1 else f"{found.stray_count:,} images are"
            self._notices.append(f"{files} not named as the set's frames ({found.strays[0]}), left out")

    def difference(self, counts: Mapping[str, int]) -> str:
        """In one line, how the frames found differ from what the set officially holds; empty where they do not.

        Args:
            counts: Frames found of each split, the known-bad ones among them.
        """
        parts, archives = [], []
        for split, part in self.official.items():
            have = counts.get(split, 0)
            if have != part.frames and not (part.optional and have == 0):
                parts.append(f"{split} {have:,} of {part.frames:,}")
                if have < part.frames and part.archive and part.archive not in archives:
                    archives.append(part.archive)
        parts += [f"{split} {have:,}, officially none" for split, have in counts.items() if split not in self.official]
        if not parts or not self.official:
            return ""
        verb = "is" if len(archives) == 1 else "are"
        lost = f": {verb} {' and '.join(archives)} missing or incomplete?" if archives else ""
        return f"{', '.join(parts)} frames{lost}"

    def findings(self) -> dict[str, Any]:
        """What `scan` found, for `dataset.json`.

        Returns:
            `known_bad`, the frames left out, each with `file` and `reason`; and `notices`, sentences. Each only where
            there are any.
        """
        found: dict[str, Any] = {}
        if self._left_out:
            found["known_bad"] = list(self._left_out)
        if self._notices:
            found["notices"] = list(self._notices)
        return found
