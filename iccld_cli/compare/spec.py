"""The TOML file of a comparison: rows, evaluations and quoted scores, checked before anything runs.

    [sets]                  name -> prepared data set, or a raw one and its adapter
    [training]              what every training has, unless its row says otherwise; [training.seg], [training.adv]
    [[row]]                 a training (seg, adv), an existing model file, or another row's model asked in another way
    [[evaluation]]          a split of a set, and the classes over which IoU is averaged
    [[published]]           scores of others, quoted with their source

docs/comparing.md explains every key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.labels import CITYSCAPES
from iccld_cli.names import shown
from iccld_cli.reading import ReadError, read_toml

SHIPPED = Path(__file__).parents[1] / "comparisons"
"""Folder of the comparisons that come with the program."""

_NOT_IN_SYNTHIA = ("terrain", "truck", "train")
_NOT_IN_13 = (*_NOT_IN_SYNTHIA, "wall", "fence", "pole")
_TEN = ("road", "sidewalk", "building", "fence", "pole", "traffic sign", "vegetation", "sky", "person", "car")
CLASS_SETS: dict[str, tuple[str, ...]] = {
    "19": CITYSCAPES.names,
    "16": tuple(name for name in CITYSCAPES.names if name not in _NOT_IN_SYNTHIA),
    "13": tuple(name for name in CITYSCAPES.names if name not in _NOT_IN_13),
    "10": _TEN,
}
"""Name -> classes: the field's 19 (GTA5 to Cityscapes), 16 and 13 (SYNTHIA to Cityscapes), and the 10 that CARLA's and
CamVid's labels share."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")
_RESERVED = ("data", "results", "table", "index", "chart")
MOST_ROWS, MOST_SEEDS = 500, 100
Name = Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
_Count = Annotated[int, Field(ge=1, le=10**9)]


class _Table(BaseModel):
    """A table of the file: frozen, and without keys that are not listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)


class SetSpec(_Table):
    """A data set.

    Attributes:
        path: Folder of a prepared set; with `raw` also folder or archive of a raw one. None where the command line has
            to say.
        raw: Adapter that prepares it, such as `gta5`.
        size: (width, height) that a raw one is resized to; None for its own.
        options: Of the adapter.
        skip_bad: Leave unusable files of a raw one out.
    """

    path: str | None = None
    raw: str | None = None
    size: Annotated[list[_Count], Field(min_length=2, max_length=2)] | None = None
    options: dict[str, str] = {}
    skip_bad: bool = False


class StageSpec(_Table):
    """A training of one stage; None for what `[training]` or the command's own default says.

    Attributes:
        iterations: Steps.
        longer: Factor on them.
        source: Names of labelled sets.
        target: Names of unlabelled sets.
        val: Name of the set whose `val` is scored during training.
        classes: Names of the classes to learn; `all` that the sources know; `shared`, those that the sources and the
            labels of the file's first evaluation know.
        source_only: Train the baseline (stage 1 alone).
        preset: Preset (stage 1 alone).
        recipe: Method of the field by name, on top of the preset.
        encoder: Encoder (stage 1 alone).
        config: TOML file of a configuration.
        batch_size: Crops a step.
        crop: (width, height).
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        settings: Configuration keys; tables in it are sections.
    """

    iterations: _Count | None = None
    longer: Annotated[float, Field(gt=0, le=1000, strict=False)] | None = None
    source: list[str] | None = None
    target: list[str] | None = None
    val: str | None = None
    classes: list[str] | Literal["all", "shared"] | None = None
    source_only: bool | None = None
    preset: str | None = None
    recipe: str | None = None
    encoder: str | None = None
    config: str | None = None
    batch_size: _Count | None = None
    crop: Annotated[list[_Count], Field(min_length=2, max_length=2)] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    settings: dict[str, Any] = {}

    def over(self, other: StageSpec) -> StageSpec:
        """This stage with what it does not say taken from another one; settings are merged."""
        own = {key: value for key in StageSpec.model_fields if (value := getattr(self, key)) is not None}
        merged = {**flat(other.settings), **flat(self.settings)}
        return other.model_copy(update={**own, "settings": merged})


class TrainingSpec(StageSpec):
    """`[training]`: both stages, and what one of them has of its own."""

    seg: StageSpec = StageSpec()
    adv: StageSpec = StageSpec()


class SamplingSpec(_Table):
    """How a row's model answers, as the options of `iccld evaluate` of these names."""

    steps: Annotated[int, Field(ge=0, le=1000)] | None = None
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    scales: list[Annotated[float, Field(ge=0.1, le=8, strict=False)]] = [1.0]
    flip: bool = False
    average: bool = False
    height: Annotated[int, Field(ge=0, le=16384)] | None = None


class RowSpec(_Table):
    """A row: trained, given as a model file, or another row's model.

    Attributes:
        name: Of its folder.
        title: What the table calls it.
        parent: Row whose model this training starts from.
        seg: Stage 1.
        adv: Stage 2, from this row's stage 1 or from its parent.
        model: Existing model file, folder, hub id or shipped name.
        model_of: Row whose model is scored again, with this row's `sampling`.
        sampling: How the model answers.
        seeds: In place of the comparison's.
    """

    name: Name
    title: str | None = None
    parent: str | None = None
    seg: StageSpec | None = None
    adv: StageSpec | None = None
    model: str | None = None
    model_of: str | None = None
    sampling: SamplingSpec = SamplingSpec()
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1)] | None = None

    @property
    def shown_title(self) -> str:
        """What the table calls it."""
        return self.title or self.name

    @property
    def trained(self) -> bool:
        """Whether it is a training."""
        return self.seg is not None or self.adv is not None


class EvaluationSpec(_Table):
    """A split that every row is scored on.

    Attributes:
        name: Of its columns.
        set: Name of the set.
        split: Its split.
        classes: Names of class sets; each is a column.
        rule: `official`, every labelled pixel counts; `known`, those of the class set alone.
        limit: Only this many frames, evenly spread.
    """

    name: Name
    set: str
    split: str = "val"
    classes: Annotated[list[str], Field(min_length=1)] = ["19"]
    rule: Literal["official", "known"] = "official"
    limit: _Count | None = None

    def columns(self) -> list[str]:
        """Names of its columns: its own, with the class set's where there are several."""
        return [self.name] if len(self.classes) == 1 else [f"{self.name} {name}" for name in self.classes]


class PublishedSpec(_Table):
    """Scores of others.

    Attributes:
        title: The method.
        network: Its network, where the source says.
        source: Where the numbers stand.
        scores: Column -> mIoU in percent.
    """

    title: str
    network: str = ""
    source: Annotated[str, Field(min_length=3)]
    scores: Annotated[dict[str, Annotated[float, Field(ge=0, le=100, strict=False)]], Field(min_length=1)]


class Comparison(_Table):
    """The whole file."""

    title: str = "Comparison"
    base: str | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=MOST_SEEDS)] = [0]
    sets: dict[Name, str | SetSpec] = {}
    class_sets: dict[Name, Annotated[list[str], Field(min_length=1)]] = {}
    training: TrainingSpec = TrainingSpec()
    row: Annotated[list[RowSpec], Field(min_length=1, max_length=MOST_ROWS)]
    evaluation: Annotated[list[EvaluationSpec], Field(min_length=1)]
    published: list[PublishedSpec] = []
    _shared: str | None = PrivateAttr(None)

    @property
    def shared_set(self) -> str:
        """The set whose labels `classes = "shared"` asks: the file's first evaluation's, wanted now or not."""
        return self._shared or self.evaluation[0].set

    def rows(self) -> dict[str, RowSpec]:
        """Rows by name."""
        return {row.name: row for row in self.row}

    def classes_of(self, name: str) -> tuple[str, ...]:
        """Classes of a class set: the file's own before the built-in ones."""
        return tuple(self.class_sets.get(name, ())) or CLASS_SETS[name]

    def seeds_of(self, row: RowSpec) -> list[int | None]:
        """Seeds of a row; a single None for a model file, which has none."""
        if row.model is not None:
            return [None]
        if row.model_of is not None and row.seeds is None:
            return self.seeds_of(self.rows()[row.model_of])
        return [*(row.seeds or self.seeds)]

    def stages(self, row: RowSpec) -> dict[str, StageSpec]:
        """`seg` and `adv` of a row, with what `[training]` says.

        A stage that starts from another training has that one's configuration in its file: it takes over the sets, and
        of `[training]` only what its own stage says there.
        """
        given = {"seg": (row.seg, self.training.seg), "adv": (row.adv, self.training.adv)}
        found: dict[str, StageSpec] = {}
        common = StageSpec(**{key: getattr(self.training, key) for key in StageSpec.model_fields})
        parent = self.rows().get(row.parent or "")
        if parent is not None and parent.trained:
            of_parent = self.stages(parent)
            common = _handed_on(of_parent.get("seg") or of_parent["adv"])
        for stage, (own, of_stage) in given.items():
            if own is not None:
                found[stage] = own.over(of_stage.over(common))
                common = _handed_on(found[stage])
        return found

    def columns(self) -> list[str]:
        """Names of all columns."""
        return [column for evaluation in self.evaluation for column in evaluation.columns()]

    def source_of(self, row: RowSpec) -> str | None:
        """The row that another one needs first."""
        return row.parent or row.model_of


def _handed_on(spec: StageSpec) -> StageSpec:
    """What a training hands on to those that start from it, besides its model file."""
    return StageSpec(source=spec.source, target=spec.target, val=spec.val, classes=spec.classes)


def read_comparison(path: Path) -> Comparison:
    """Read and check a file.

    Args:
        path: The TOML file.

    Raises:
        IccldError: It cannot be read, a key is unknown or out of range, or a name means nothing.
    """
    try:
        tree = read_toml(path)
    except ReadError as error:
        if error.message == "is missing":
            raise IccldError(f"no comparison at {path}", f"give a TOML file, or {', '.join(shipped_names())}") from None
        raise IccldError(f"{path} {error.message}", "give a TOML file, see docs/comparing.md") from None
    try:
        found = Comparison.model_validate(tree)
    except ValidationError as error:
        raise _explained(error, tree, path) from None
    for problem, hint in _problems(found):
        raise IccldError(f"{path}: {problem}", hint)
    return found


def find_comparison(given: str) -> Path:
    """The file that is meant: one at this path, or a shipped one by its name.

    Raises:
        IccldError: There is none.
    """
    path = Path(given)
    if path.is_file():  # a folder of a shipped one's name may be its OUT
        return path
    shipped = SHIPPED / f"{given.removesuffix('.toml')}.toml"
    if given == Path(given).name and shipped.is_file():
        return shipped
    raise IccldError(f"no comparison at {given}", f"give a TOML file, or one of {', '.join(shipped_names())}")


def shipped_names() -> list[str]:
    """Names of the comparisons that come with the program."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted keys in place of tables."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in flat(value).items()}
        else:
            found[key] = value
    return found


def with_needed(comparison: Comparison, names: Sequence[str]) -> list[RowSpec]:
    """Rows in the order of the file, with those that they need.

    Args:
        comparison: The comparison.
        names: Of the wanted rows; empty for all.

    Raises:
        IccldError: A name is no row's.
    """
    rows, wanted = comparison.rows(), set[str]()
    for name in names or rows:
        if name not in rows:
            raise IccldError(f"there is no row {shown(name)!r}", did_you_mean(name, rows))
        current: str | None = name
        while current is not None and current not in wanted:
            wanted.add(current)
            current = comparison.source_of(rows[current])
    return [row for row in comparison.row if row.name in wanted]


def with_evaluations(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """The comparison with some of its evaluations; all where none is named.

    Raises:
        IccldError: A name is no evaluation's.
    """
    known = {evaluation.name: evaluation for evaluation in comparison.evaluation}
    for name in names:
        if name not in known:
            raise IccldError(f"there is no evaluation {shown(name)!r}", did_you_mean(name, known))
    chosen = [evaluation for name, evaluation in known.items() if not names or name in names]
    found = comparison.model_copy(update={"evaluation": chosen})
    found._shared = comparison.shared_set
    return found


def _problems(found: Comparison) -> Iterator[tuple[str, str]]:
    """What does not go together, the first of which is told."""
    rows = found.rows()
    yield from _twice("row", [row.name for row in found.row])
    yield from _twice("evaluation", [evaluation.name for evaluation in found.evaluation])
    if found.base is not None and found.base not in rows:
        yield f"base = {found.base!r} is no row", did_you_mean(found.base, rows)
    for name, classes in found.class_sets.items():
        yield from _twice(f"class set {name!r}: class", classes)
    for evaluation in found.evaluation:
        yield from _unknown_sets(found, f"evaluation {evaluation.name!r}", [evaluation.set])
        for name in evaluation.classes:
            known = {*found.class_sets, *CLASS_SETS}
            if name not in known:
                hint = did_you_mean(name, known) + "; [class_sets] defines others"
                yield f"evaluation {evaluation.name!r}: there is no class set {name!r}", hint
        yield from _twice(f"evaluation {evaluation.name!r}: class set", evaluation.classes)
    yield from _cycles(found)
    for row in found.row:
        yield from _row_problems(found, row)
    yield from _twice("column", found.columns())
    for quoted in found.published:
        for column in quoted.scores:
            if column not in found.columns():
                hint = did_you_mean(column, found.columns())
                yield f"published {quoted.title!r}: there is no column {column!r}", hint


def _row_problems(found: Comparison, row: RowSpec) -> Iterator[tuple[str, str]]:
    rows, where = found.rows(), f"row {row.name!r}"
    if row.name.lower() in _RESERVED or row.name.endswith("."):
        yield f"{where} has a name that the comparison uses itself", "choose another"
    kinds = [row.trained, row.model is not None, row.model_of is not None]
    if sum(kinds) != 1:
        what = "is nothing" if not any(kinds) else "is several things"
        yield f"{where} {what}", "give it seg and/or adv (a training), model (a file), or model_of (another row's)"
    for key in ("parent", "model_of"):
        other = getattr(row, key)
        if other is not None and other not in rows:
            yield (
                f"{where}: {key} = {other!r} is no row",
                did_you_mean(other, [name for name in rows if name != row.name]),
            )
    if row.parent in rows and rows[row.parent or ""].model_of is not None:
        yield f"{where}: its parent {row.parent!r} is another row's model", f"name {rows[row.parent or ''].model_of!r}"
    if row.parent is not None and not row.trained:
        yield f"{where} has a parent and is no training", "parent goes with seg or adv"
    if row.adv is not None and row.seg is None and row.parent is None:
        yield f"{where}: stage 2 starts from a stage-1 file", "give the row seg as well, or a parent"
    if row.model is not None and row.seeds is not None:
        yield f"{where}: a model file has no seeds", "leave seeds out"
    if row.seeds is not None and len(set(row.seeds)) < len(row.seeds):
        yield f"{where} has a seed twice", "give each once"
    if row.parent in rows and rows[row.parent or ""].model is None:
        missing = sorted({*found.seeds_of(row)} - {*_seeds_or_none(found, row.parent or "")}, key=str)
        if missing:
            yield (
                f"{where}: its parent {row.parent!r} is not trained with seed {missing[0]}",
                "give both the same seeds",
            )
    if row.seg is not None or row.adv is not None:
        for stage, spec in found.stages(row).items():
            yield from _unknown_sets(found, f"{where}, {stage}", [*(spec.source or ()), *(spec.target or ())])
            yield from _unknown_sets(found, f"{where}, {stage}", [] if spec.val is None else [spec.val])
            if stage == "seg" and not spec.source:
                yield f"{where}: stage 1 has no source", "name one in the row's seg or in [training]"
            if stage == "seg" and not spec.target and not spec.source_only:
                yield (
                    f"{where}: stage 1 has no target",
                    "name one in the row's seg or in [training], or set source_only",
                )
            own = (row.seg if stage == "seg" else row.adv) or StageSpec()
            for key in ("source_only", "preset", "encoder"):
                if stage == "adv" and getattr(own, key) is not None:
                    yield f"{where}: {key} is no option of stage 2", "give it to stage 1"
            for key, value in spec.settings.items():
                if isinstance(value, dict | bytes) or "." not in key:
                    yield f"{where}: settings has {key!r}, which is no configuration key", "see `iccld config`"


def _seeds_or_none(found: Comparison, name: str) -> list[int | None]:
    try:
        return found.seeds_of(found.rows()[name])
    except (RecursionError, KeyError):  # a cycle or a missing row, which is told as such
        return [*found.seeds]


def _cycles(found: Comparison) -> Iterator[tuple[str, str]]:
    rows = found.rows()
    for row in found.row:
        path, current = [row.name], found.source_of(row)
        while current is not None and current in rows and current not in path:
            path.append(current)
            current = found.source_of(rows[current])
        if current == row.name:
            yield f"rows need each other in a circle: {' -> '.join([*path, current])}", "let one start from no other"


def _unknown_sets(found: Comparison, where: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if name not in found.sets:
            known = did_you_mean(name, found.sets) if found.sets else "there is none yet"
            yield f"{where}: there is no set {name!r} in [sets]", known


def _twice(what: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if names.count(name) > 1:
            yield f"{what} {name!r} is there twice", "give each its own name"


def _explained(error: ValidationError, tree: Mapping[str, Any], path: Path) -> IccldError:
    """The first problem that pydantic found, in the file's own words."""
    errors = error.errors()
    # An entry of [sets] may be a text or a table: what is said of the other kind helps nobody.
    other = [e for e in errors if not (e["loc"][-1] == "str" and isinstance(e["input"], dict))]
    first = next((e for e in other if e["loc"][-1] != "SetSpec"), errors[0])
    place = _place(first["loc"], tree)
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _keys_at(first["loc"][:-1])
        near = difflib.get_close_matches(key, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        return IccldError(f"{path}: {shown(place)} is no key", hint)
    if first["type"] == "missing":
        return IccldError(f"{path}: {shown(place)} is missing", "see docs/comparing.md")
    given = shown(repr(first["input"]))[:80]
    return IccldError(f"{path}: {shown(place)} = {given} is not possible", first["msg"][:1].lower() + first["msg"][1:])


def _place(loc: Sequence[Any], tree: Any) -> str:
    """`row 'stage1', seg.iterations` of a place in the tree."""
    parts: list[str] = []
    for number, part in enumerate(loc):
        if isinstance(part, int):
            tree = tree[part] if isinstance(tree, list) and part < len(tree) else None
            name = tree.get("name") or tree.get("title") if isinstance(tree, dict) else None
            label = repr(name) if name else f"number {part + 1}"
            parts[-1:] = [f"{parts[-1] if parts else ''} {label},"]
        elif part in ("str", "SetSpec") and number and loc[0] == "sets":
            continue  # pydantic's names of what an entry of [sets] may be
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
            joined = bool(parts) and not parts[-1].endswith(",")
            parts.append(("." if joined else " " if parts else "") + str(part))
    return "".join(parts).rstrip(",")


_TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    (): Comparison,
    ("training",): TrainingSpec,
    ("training", "seg"): StageSpec,
    ("training", "adv"): StageSpec,
    ("row",): RowSpec,
    ("row", "seg"): StageSpec,
    ("row", "adv"): StageSpec,
    ("row", "sampling"): SamplingSpec,
    ("evaluation",): EvaluationSpec,
    ("published",): PublishedSpec,
}


def _keys_at(loc: Sequence[Any]) -> list[str]:
    table = _TABLES.get(tuple(part for part in loc if isinstance(part, str)), SetSpec)
    return [*table.model_fields]
