"""The data sets of a comparison: found, or prepared once from what was downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from iccld_cli.compare.options import CompareOptions
from iccld_cli.compare.spec import Comparison, RowSpec, SetSpec
from iccld_cli.data.prepared import INFO_NAME, PreparedDataset
from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.names import shown

DATA = "data"
"""Folder below OUT for what is prepared."""


def used_sets(comparison: Comparison, rows: Iterable[RowSpec]) -> list[str]:
    """Names of the sets that some rows and the evaluations read, each once."""
    names: dict[str, None] = {}
    for row in rows:
        for spec in comparison.stages(row).values():
            names |= dict.fromkeys([*(spec.source or ()), *(spec.target or ()), *([spec.val] if spec.val else ())])
            names |= {comparison.shared_set: None} if spec.classes == "shared" else {}
    names |= dict.fromkeys(evaluation.set for evaluation in comparison.evaluation)
    return list(names)


class Sets:
    """The sets that are used.

    Attributes:
        opened: Name -> prepared set.
        waiting: Name -> raw folder that still has to be prepared.
    """

    def __init__(
        self, comparison: Comparison, names: Iterable[str], options: CompareOptions, listing: bool = False
    ) -> None:
        """Find the sets.

        Args:
            comparison: What the file says.
            names: Of the sets that are used.
            options: Folders in place of the file's.
            listing: Whether the commands are only listed, so that a set may stay a name in them.

        Raises:
            IccldError: A set is not there, or is not what the file says.
        """
        for name in options.data:
            if name not in comparison.sets:
                raise IccldError(f"{shown(options.file)} has no set {name!r}", did_you_mean(name, comparison.sets))
        self.opened: dict[str, PreparedDataset] = {}
        self.waiting: dict[str, Path] = {}
        self._options, self._specs = options, {name: _spec(comparison.sets[name]) for name in names}
        missing = [name for name, spec in self._specs.items() if spec.path is None and name not in options.data]
        if missing and not listing:
            how = " ".join(f"--{name} DIR" if name in SHORT else f"--data {name}=DIR" for name in missing)
            raise IccldError(f"the folder of set {', '.join(missing)} is not known", f"give {how}")
        for name, spec in self._specs.items():
            path = options.data.get(name)
            if name in missing:
                self.waiting[name] = Path(name.upper())
                continue
            if path is None:
                path = options.file.parent / (spec.path or "")
            prepared = path if (path / INFO_NAME).is_file() else options.out / DATA / name
            if (prepared / INFO_NAME).is_file():
                self.opened[name] = PreparedDataset(prepared)
                if prepared != path:
                    given = name in options.data or path.exists()
                    _check_origin(name, self.opened[name], spec, path if given else None)
            elif spec.raw is not None and path.exists():
                self.waiting[name] = path
            elif spec.raw is not None:
                raise IccldError(f"set {name}: nothing at {path}", f"give the folder of {spec.raw}, raw or prepared")
            else:
                self.opened[name] = PreparedDataset(path)  # which says what is wrong with it

    def prepare(self, console: Console) -> None:
        """Prepare what is still raw, below OUT.

        Raises:
            IccldError: A set cannot be prepared.
            KeyboardInterrupt: Interrupted; what was done is gone on from the next time.
        """
        from iccld_cli.prepare.adapters import ADAPTERS
        from iccld_cli.prepare.archives import plain_copies
        from iccld_cli.prepare.prepare import PrepareOptions
        from iccld_cli.prepare.sources import open_set
        from iccld_cli.prepare.with_bar import prepare_shown

        for name, path in [*self.waiting.items()]:
            spec, folder = self._specs[name], self._options.out / DATA
            if spec.raw not in ADAPTERS:
                raise IccldError(
                    f"set {name}: there is no raw data set {spec.raw!r}", did_you_mean(spec.raw or "", ADAPTERS)
                )
            console.print(shown(f"preparing {name} from {path}"), soft_wrap=True)
            source = open_set(ADAPTERS[spec.raw], path, folder, False, dict(spec.options), True)
            size = None if spec.size is None else (spec.size[0], spec.size[1])
            try:
                how = PrepareOptions(size=size, skip_bad=spec.skip_bad)
                self.opened[name] = prepare_shown(source, folder, name, how, console)[0]
            finally:
                for copy in plain_copies(source.tree):
                    copy.unlink(missing_ok=True)
            del self.waiting[name]


SHORT = ("gta5", "synthia", "cityscapes")
"""Sets that have an option of their own name."""


def _check_origin(name: str, dataset: PreparedDataset, spec: SetSpec, path: Path | None) -> None:
    """Refuse what was prepared otherwise than the file says now, or from another folder than the one that is given."""
    from iccld_cli.prepare.adapters import ADAPTERS
    from iccld_cli.prepare.adapters.base import check_options
    from iccld_cli.prepare.existing import differences

    old = dataset.info.source
    origin = old.get("path")
    if path is not None and isinstance(origin, str) and Path(origin).resolve() != path.resolve():
        raise IccldError(
            f"set {name}: {dataset.root} was prepared from {origin}, not from {path}", "choose another --out"
        )
    if spec.raw not in ADAPTERS or "adapter" not in old:
        return
    asked = check_options(spec.raw, ADAPTERS[spec.raw].choices, spec.options)
    # Of "auto", what was found in the data is recorded.
    wanted = {**(old.get("options") or {}), **{key: value for key, value in asked.items() if value != "auto"}}
    how = {**old.get("prepared_with", {}), "size": spec.size}
    if differs := differences(old, {**old, "adapter": spec.raw, "options": wanted, "prepared_with": how}):
        raise IccldError(
            f"set {name}: {dataset.root} was prepared with other options ({'; '.join(differs)})",
            "remove that folder to prepare it anew, or choose another --out",
        )


def _spec(given: str | SetSpec) -> SetSpec:
    return SetSpec(path=given) if isinstance(given, str) else given
