"""Cells, their commands, what has changed, and what is left."""

import json
import shutil
from dataclasses import replace

import pytest
from raw_files import all_ids, palette, photo
from rich.console import Console

from iccld_cli.compare.cells import CELL_NAME, Plan
from iccld_cli.compare.jobs import _start_next
from iccld_cli.compare.options import CompareOptions
from iccld_cli.compare.rates import Rates, _seconds_a_step
from iccld_cli.compare.run import _set_aside, _to_redo, compare, list_rows, plan_lines
from iccld_cli.compare.sets import Sets, used_sets
from iccld_cli.compare.spec import read_comparison, with_evaluations, with_needed
from iccld_cli.config import load_config
from iccld_cli.errors import IccldError


@pytest.fixture
def options(tmp_path, file):
    path = tmp_path / "small.toml"
    path.write_text(file, encoding="utf-8")
    return CompareOptions(path, tmp_path / "out", measure=False)


def plan_of(options):
    comparison = read_comparison(options.file)
    rows = with_needed(comparison, options.rows)
    return Plan(comparison, rows, Sets(comparison, used_sets(comparison, rows), options), options)


def rewrite(options, old, new):
    text = options.file.read_text(encoding="utf-8")
    assert old in text
    options.file.write_text(text.replace(old, new), encoding="utf-8")


def cell_of(plan, name, seed=0):
    return next(cell for cell in plan.cells if cell.row.name == name and cell.seed == seed)


def finish(plan, cell, stage1):
    """A cell as a training leaves it, with a real stage-1 file."""
    plan.begin(cell)
    shutil.copyfile(stage1 / "stage1.safetensors", plan.model(cell))
    plan.note(cell, {"stage": "seg", "steps": 4, "seconds": 8.0, "cpu_seconds": 6.0, "status": 0})


def test_cells_wait_for_those_that_they_start_from(options):
    plan = plan_of(replace(options, seeds=[3, 4]))
    names = [cell.name for cell in plan.cells]
    assert names[:2] == ["shipped", "source-only, seed 3"] and len(names) == 9
    child = cell_of(plan, "stage2", 4)
    assert child.needs is cell_of(plan, "stage1", 4) and cell_of(plan, "stage2-0", 4).needs is child
    assert plan.start(child) == options.out / "stage1/seed4/stage1.safetensors"


def test_commands_say_everything(options, world):
    listed = dict(list_rows(replace(options, encoder="tiny", settings=["optim.lr=0.5"], precision="fp32")))
    (seg,), (adv,) = listed["stage1: stage 1"], listed["stage2: stage 2"]
    out = options.out
    assert seg.startswith(f"iccld adapt-seg --source {world / 'source'} --target {world / 'target'} --preset tiny")
    assert f"--encoder tiny --batch-size 2 --crop 64x64 --precision fp32 --out {out}/stage1/seed0 --seed 0" in seg
    assert seg.index("optim.lr=0.5") < seg.index("data.workers=0")  # a row's own settings come last
    assert adv.startswith(f"iccld adapt-adv --ckpt {out}/stage1/seed0/stage1.safetensors")
    assert adv.endswith("--iterations 2 --set optim.lr=0.5") and "--preset" not in adv
    assert "--source-only" in listed["source-only: source only"][0]


def test_a_row_of_both_stages_and_a_recipe(options):
    rewrite(options, "seg = {}", 'seg = { recipe = "dacs", longer = 2.5 }\nadv = {}')
    (_, (seg, adv)) = next(row for row in list_rows(options) if row[0].startswith("stage1"))
    assert "--recipe dacs" in seg and "--iterations 10" in seg
    folder = options.out / "stage1/seed0"
    assert f"--ckpt {folder}/stage1.safetensors" in adv and f"--out {folder} " in adv
    plan = plan_of(options)
    assert plan.start(cell_of(plan, "stage2")) == folder / "stage1.safetensors"  # the parent's stage 1, not its stage 2
    assert plan.model(cell_of(plan, "stage1")) == folder / "stage2.safetensors"


def test_shared_classes_are_those_that_the_labels_know_too(options, world):
    rewrite(options, 'target = ["camera"]\n', 'target = ["camera"]\nclasses = "shared"\n')
    plan = plan_of(options)
    words = plan.training(cell_of(plan, "stage1"), "seg")
    assert words[words.index("--classes") + 1] == "road,building,sky,car"


def test_the_evaluations_asked_for_do_not_change_what_is_learnt(options, stage1, world, tmp_path):
    game = shutil.copytree(world / "source", tmp_path / "game")
    info = json.loads((game / "dataset.json").read_text())
    (game / "dataset.json").write_text(json.dumps({**info, "classes_known": ["road", "building", "sky"]}))
    options = replace(options, data={"game": game})
    rewrite(options, 'target = ["camera"]\n', 'target = ["camera"]\nclasses = "shared"\n')
    first = '[[evaluation]]\nname = "before"\nset = "game"\nsplit = "train"\n'
    rewrite(options, '[[evaluation]]\nname = "val"', f'{first}[[evaluation]]\nname = "val"')
    rewrite(options, 'source = ["game"]', 'source = ["camera"]')
    for asked in (["val"], []):
        narrowed = with_evaluations(read_comparison(options.file), asked)
        assert "game" in used_sets(narrowed, narrowed.row)
        plan = Plan(narrowed, narrowed.row, Sets(narrowed, used_sets(narrowed, narrowed.row), options), options)
        stage1_cell, child = cell_of(plan, "stage1"), cell_of(plan, "stage2")
        assert plan.facts(stage1_cell)["seg"]["classes"] == ["road", "building", "sky"]  # not car
        assert plan.changes(stage1_cell) == [] and plan.changes(child) == []
        if asked:
            finish(plan, stage1_cell, stage1)
            plan.begin(child)
    assert "classes" not in plan.facts(child)["adv"]  # stage 2 has its model's
    record = json.loads((child.folder / CELL_NAME).read_text())
    record["facts"]["adv"]["classes"] = ["road", "building", "sky"]  # as it was recorded once
    (child.folder / CELL_NAME).write_text(json.dumps(record))
    assert plan.changes(child) == []
    rewrite(options, "adv = {}", 'adv = { classes = ["road"] }')
    again = plan_of(options)
    assert again.changes(cell_of(again, "stage2"))[0].startswith("adv.classes was")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seg = {}", 'seg = { settings = { "optim.lrr" = 1 } }', "row 'stage1', seg: unknown configuration key 'optim"),
        ("seg = {}", 'seg = { preset = "huge" }', "row 'stage1', seg: unknown preset 'huge'"),
        ('model = "free"', 'model = "nothing.safetensors"', "row 'shipped': no model file at nothing.safetensors"),
        ('set = "camera"', 'set = "camera"\nsplit = "test"', "has no frames in split 'test'"),
    ],
)
def test_what_cannot_run_is_told_before_anything_runs(options, old, new, said):
    rewrite(options, old, new)
    with pytest.raises(IccldError) as found:
        compare(options, Console(quiet=True))
    assert said in str(found.value) and not list(options.out.rglob("*.log"))


def test_missing_sets_are_named_with_their_option(options, tmp_path):
    rewrite(options, "[sets]\n", "[sets]\ngta5 = { raw = 'gta5' }\nother = {}\n")
    rewrite(options, 'source = ["game"]', 'source = ["gta5", "other"]')
    with pytest.raises(
        IccldError, match="the folder of set gta5, other is not known: give --gta5 DIR --data other=DIR"
    ):
        plan_of(options)
    with pytest.raises(IccldError, match=r"set gta5: nothing at .*: give the folder of gta5, raw or prepared"):
        plan_of(replace(options, data={"gta5": tmp_path / "no", "other": tmp_path}))
    listed = dict(list_rows(options))
    assert "--source GTA5 --source OTHER" in listed["stage1: stage 1"][0]  # a list of commands needs no data
    with pytest.raises(IccldError, match="has no set 'camra': did you mean 'camera'"):
        plan_of(replace(options, data={"camra": tmp_path}))


def test_a_set_that_was_prepared_otherwise_is_told(options, tmp_path):
    for number in range(2):
        photo(tmp_path / f"raw/images/{number:05d}.png", number, (64, 64))
        palette(tmp_path / f"raw/labels/{number:05d}.png", all_ids([7, 11], (64, 64)))
    text = options.file.read_text(encoding="utf-8")
    begin = text.index("game = "), text.index("\n", text.index("game = "))

    def sets(of_game):
        options.file.write_text(text[: begin[0]] + f"game = {of_game}" + text[begin[1] :], encoding="utf-8")
        comparison = read_comparison(options.file)
        return Sets(comparison, ["game"], options)

    raw = "{ path = 'raw', raw = 'gta5'SIZE }"
    made = sets(raw.replace("SIZE", ", size = [32, 32]"))
    assert list(made.waiting) == ["game"]
    made.prepare(Console(quiet=True))
    assert list(sets(raw.replace("SIZE", ", size = [32, 32]")).opened) == ["game"]
    with pytest.raises(IccldError, match=r"set game: .*size was \[32, 32\], now \[48, 48\]\): remove that folder"):
        sets(raw.replace("SIZE", ", size = [48, 48]"))
    with pytest.raises(IccldError, match=r"size was \[32, 32\], now None"):
        sets(raw.replace("SIZE", ""))
    with pytest.raises(IccldError, match=r"data set was 'gta5', now 'camvid'"):
        sets(raw.replace("SIZE", ", size = [32, 32]").replace("gta5", "camvid"))
    info = options.out / "data/game/dataset.json"
    record = json.loads(info.read_text())
    record["source"] |= {"adapter": "mapillary", "options": {"version": "2.0", "classes": "field"}}
    info.write_text(json.dumps(record))
    mapillary = raw.replace("SIZE", ", size = [32, 32], options = { OWN }").replace("gta5", "mapillary")
    assert list(sets(mapillary.replace("OWN", "classes = 'field'")).opened) == ["game"]  # version was found, not given
    with pytest.raises(IccldError, match=r"version was '2.0', now '1.2'"):
        sets(mapillary.replace("OWN", "classes = 'field', version = '1.2'"))


def test_a_changed_row_is_told_with_what_has_changed(options, stage1):
    plan = plan_of(options)
    finish(plan, cell_of(plan, "stage1"), stage1)
    assert plan_of(options).changes(cell_of(plan_of(options), "stage1")) == []
    rewrite(options, 'title = "stage 1"', 'title = "another title"')
    compare(replace(options, dry_run=True), Console(quiet=True))
    rewrite(options, "seg = {}", 'seg = { iterations = 5, settings = { "optim.lr" = 0.125 } }')
    with pytest.raises(IccldError) as found:
        compare(replace(options, dry_run=True), Console(quiet=True))
    assert (
        "row 'stage1' was begun otherwise: seg: optim.lr was 0.0002, is 0.125, seg: seg.iterations was 4, is 5"
        in str(found.value)
    )
    assert "--redo stage1" in str(found.value)


def test_another_parent_and_another_data_set_are_changes(options, stage1, world, tmp_path):
    plan = plan_of(options)
    finish(plan, cell_of(plan, "stage1"), stage1)
    plan.begin(cell_of(plan, "stage2"))
    other = shutil.copytree(world / "target", tmp_path / "other")
    lines = (other / "index.jsonl").read_text().splitlines()
    (other / "index.jsonl").write_text("\n".join(lines[1:]) + "\n")
    again = plan_of(replace(options, data={"camera": other}))
    assert again.changes(cell_of(again, "stage1"))[0].startswith('seg.target.camera was "')
    record = json.loads((cell_of(plan, "stage2").folder / CELL_NAME).read_text())
    (cell_of(plan, "stage2").folder / CELL_NAME).write_text(json.dumps({**record, "start": "0" * 64}))
    assert plan.changes(cell_of(plan, "stage2")) == ["stage1 is another model now"]


def test_rows_are_done_anew_with_those_that_need_them_and_the_old_ones_are_kept(options, stage1):
    plan = plan_of(options)
    finish(plan, cell_of(plan, "stage1"), stage1)
    plan.begin(cell_of(plan, "stage2"))
    place = plan.set_aside(cell_of(plan, "stage1"))
    assert place == options.out / "stage1/old1-seed0" and (place / "stage1.safetensors").is_file()
    assert plan.set_aside(cell_of(plan, "stage1")) is None
    with pytest.raises(IccldError, match="there is no row 'stage' to do anew"):
        compare(replace(options, redo=["stage"]), Console(quiet=True))


def test_a_row_done_anew_takes_with_it_all_that_was_begun_from_it(options, stage1):
    more = '[[row]]\nname = "stage3"\nparent = "stage2"\nseg = {}\n'
    rewrite(options, '[[evaluation]]\nname = "val"', f'{more}[[evaluation]]\nname = "val"')
    plan = plan_of(replace(options, seeds=[0, 1]))
    for cell in plan.cells:
        if cell.row.trained:
            plan.begin(cell)
    for chosen in ([], ["stage1"]):  # rows that are not asked for now go aside as well
        asked = plan_of(replace(options, rows=chosen))
        redone = {(cell.row.name, cell.seed) for cell in _to_redo(asked, ["stage1"])}
        assert redone == {("stage1", 0), ("stage2", 0), ("stage3", 0)}
    asked = plan_of(replace(options, rows=["stage1"]))
    _set_aside(asked, _to_redo(asked, ["stage1"]), Console(quiet=True))
    left = {path.parent.relative_to(options.out).as_posix() for path in options.out.glob("*/seed*/cell.json")}
    assert left == {"source-only/seed0", "source-only/seed1", "stage1/seed1", "stage2/seed1", "stage3/seed1"}
    assert (options.out / "stage3/old1-seed0/cell.json").is_file()


def test_a_finished_row_fails_where_its_parent_has_become_another_model(options, stage1):
    plan = plan_of(replace(options, rows=["stage2"]))
    parent, child = plan.cells
    finish(plan, parent, stage1)
    plan.begin(child)
    shutil.copyfile(stage1 / "stage1.safetensors", plan.model(child))
    record = json.loads((child.folder / CELL_NAME).read_text())
    (child.folder / CELL_NAME).write_text(json.dumps({**record, "start": "0" * 64}))
    plan.model(parent).unlink()
    assert plan.changes(child) == []  # nothing to compare yet: what the command looks at as it begins
    shutil.copyfile(stage1 / "stage1.safetensors", plan.model(parent))
    assert not _start_next(plan, child, [], ["cpu"], 1)
    assert child.failure == "it was begun otherwise: stage1 is another model now; --redo stage2 does it anew"


def test_a_damaged_record_is_one_line(options, stage1):
    plan = plan_of(options)
    finish(plan, cell_of(plan, "stage1"), stage1)
    for text in ("{", "[]", '{"parts": 3}'):
        (options.out / "stage1/seed0" / CELL_NAME).write_text(text)
        with pytest.raises(IccldError, match=r"cell.json .*remove its folder, or choose another --out"):
            plan_of(options)


def test_time_comes_from_what_is_done_else_from_what_was_measured(options, stage1):
    plan = plan_of(replace(options, seeds=[0, 1], jobs=2))
    rates = Rates(plan, ["cpu"])
    assert rates.estimate().seconds is None and "source-only" in rates.estimate().unknown
    assert "shipped" in rates.estimate().unscored
    finish(plan, cell_of(plan, "stage1"), stage1)
    done = rates.training(cell_of(plan, "stage1", 1), "seg")
    assert (done.seconds, done.how) == (2.0, "done")
    assert rates.training(cell_of(plan, "source-only", 1), "seg") is None  # the source alone takes other steps
    log = cell_of(plan, "source-only").folder / "log.jsonl"
    log.parent.mkdir(parents=True)
    rows = [{"stage": "source_only", "step_seconds": s, "memory_gib": 0.25} for s in (9.0, 1.25, 1.25)]
    log.write_text("".join(json.dumps(line) + "\n" for line in rows) + '{"stage": "sour')
    begun = rates.training(cell_of(plan, "source-only", 1), "seg")
    assert (begun.seconds, begun.memory, begun.how) == (1.25, 0.25, "begun")  # of one that was stopped
    rates._store(rates.key(cell_of(plan, "source-only"), "seg"), 1.5, 0.25)
    rates._store(rates.key(cell_of(plan, "stage2"), "adv"), 3.0, 0.5)
    rates._store("start", 7.0, None)
    for cell in plan.cells:
        for evaluation in plan.comparison.evaluation:
            rates._store(rates._scoring_key(cell, evaluation), 0.5, None)
    again = Rates(plan, ["cpu"])  # they are kept
    found = again.estimate()
    assert (found.trainings, found.steps, found.scores) == (5, 4 + 4 + 4 + 2 + 2, 9)
    frames, start = 2, 7.0
    validated = 0.5 * frames  # the end of a training scores `val`
    trained = 2 * (4 * 1.5 + start + validated) + 4 * 2.0 + 2 * (2 * 3.0 + start + validated)
    assert found.seconds == pytest.approx(trained + 9 * (start + 0.5 * frames))
    assert found.memory == 0.5
    lines = plan_lines(found, replace(options, jobs=2, devices=["cpu"]))
    assert lines[0] == "left: 5 trainings, 16 steps, 9 scores"
    assert "2 side by side at best" in lines[1] and "1.0 GiB of" in lines[2]


def test_the_parts_of_a_stage_count_by_their_share_of_a_whole_training():
    config = load_config("tiny", assignments=["seg.burn_in=0.25"])
    steps = [9.0, 1.0, 9.0, 3.0, 3.0, 3.0, 3.0, 3.0]  # the first of each part warms up
    assert _seconds_a_step(steps, config, "seg") == pytest.approx(0.25 * 1.0 + 0.75 * 3.0)
    assert _seconds_a_step(steps, config, "adv") == 3.0


def test_the_plan_tells_once_what_the_trainings_will_download(options, monkeypatch):
    def describe(name):
        return f"encoder {name}: downloading 21 MB" if "/" in name else None

    monkeypatch.setattr("iccld_cli.models.pretrained.describe_download", describe)
    for encoder, told in (("org/known", 1), ("tiny", 0)):
        console = Console(record=True, width=500)
        compare(replace(options, dry_run=True, encoder=encoder), console)
        assert console.export_text().count("encoder org/known: downloading 21 MB") == told
