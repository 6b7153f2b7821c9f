"""What the TOML file of a comparison may say, and what is told where it says something else."""

import pytest

from iccld_cli.compare.spec import (
    CLASS_SETS,
    find_comparison,
    read_comparison,
    shipped_names,
    with_evaluations,
    with_needed,
)
from iccld_cli.errors import IccldError


def read(tmp_path, text):
    path = tmp_path / "rows.toml"
    path.write_text(text, encoding="utf-8")
    return read_comparison(path)


def test_class_sets_are_the_fields():
    assert [len(CLASS_SETS[name]) for name in ("19", "16", "13", "10")] == [19, 16, 13, 10]
    assert set(CLASS_SETS["19"]) - set(CLASS_SETS["16"]) == {"terrain", "truck", "train"}
    assert set(CLASS_SETS["16"]) - set(CLASS_SETS["13"]) == {"wall", "fence", "pole"}


def test_a_stage_has_what_its_row_says_over_what_training_says(tmp_path, file):
    own = 'seg = { iterations = 7, longer = 2, settings = { optim = { lr = 0.5 }, "seg.burn_in" = 0.25 } }'
    found = read(tmp_path, file.replace("seg = {}", own))
    stage = found.stages(found.rows()["stage1"])["seg"]
    assert (stage.iterations, stage.longer, stage.source) == (7, 2, ["game"])
    assert stage.settings["optim.lr"] == 0.5 and stage.settings["seg.burn_in"] == 0.25
    assert stage.settings["data.workers"] == 0  # of [training]
    child = found.stages(found.rows()["stage2"])["adv"]
    assert (child.iterations, child.source, child.batch_size) == (2, ["game"], None)
    assert child.settings == {}  # its configuration is in the file that it starts from


def test_a_child_takes_over_its_parents_sets(tmp_path, file):
    found = read(tmp_path, file.replace("seg = {}", 'seg = { source = ["camera"], target = ["game"] }'))
    child = found.stages(found.rows()["stage2"])["adv"]
    assert (child.source, child.target) == (["camera"], ["game"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("adv = {}", "adv = { longr = 2 }", "row 'stage2', adv.longr is no key: did you mean 'longer'?"),
        ("[training.seg]", "[trainin.seg]", "trainin is no key: did you mean 'training'?"),
        ("seg = {}", "seg = { iterations = 0 }", "row 'stage1', seg.iterations = 0 is not possible"),
        ("seg = {}", 'seg = {}\nparent = "stage2"', "rows need each other in a circle: stage1 -> stage2 -> stage1"),
        ('parent = "stage1"', 'parent = "stage3"', "row 'stage2': parent = 'stage3' is no row: did you mean 'stage1'?"),
        (
            'parent = "stage1"',
            'parent = "again"',
            "row 'stage2': its parent 'again' is another row's model: name 'stage1'",
        ),
        ('parent = "stage1"', "", "row 'stage2': stage 2 starts from a stage-1 file: give the row seg as well"),
        ('model_of = "stage2"', 'model_of = "stage2"\nseg = {}', "row 'stage2-0' is several things"),
        ('model = "free"', "", "row 'shipped' is nothing"),
        ('set = "camera"', 'set = "camra"', "there is no set 'camra' in [sets]: did you mean 'camera'?"),
        ('target = ["camera"]', 'target = ["nowhere"]', "there is no set 'nowhere' in [sets]"),
        ('"19", "four"', '"19", "12"', "there is no class set '12'"),
        ('"19", "four"', '"19", "19"', "evaluation 'val': class set '19' is there twice"),
        ('name = "stage1"', 'name = "stage2"', "row 'stage2' is there twice"),
        ('name = "stage1"', 'name = "../up"', "is not possible"),
        ('name = "shipped"', 'name = "data"', "row 'data' has a name that the comparison uses itself"),
        ('base = "source-only"', 'base = "source"', "base = 'source' is no row"),
        ('"val 19" = 50', '"val 20" = 50', "published 'Others & more_': there is no column 'val 20'"),
        ('source = "their README"', "", "published 'Others & more_', source is missing"),
        ("adv = {}", 'adv = { preset = "small" }', "row 'stage2': preset is no option of stage 2"),
        ("adv = {}", "adv = {}\nseeds = [0, 5]", "its parent 'stage1' is not trained with seed 5"),
        ('model = "free"', 'model = "free"\nseeds = [1]', "a model file has no seeds"),
        ("seeds = [0]", "seeds = [0", "is not TOML"),
        ('name = "val"', 'name = "\\u001b[31m"', "is not possible"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, file, old, new, said):
    assert old in file
    again = '[[row]]\nname = "again"\nmodel_of = "stage1"\n' if "again" in new else ""
    with pytest.raises(IccldError) as found:
        read(tmp_path, file.replace(old, new, 1) + again)
    assert said in str(found.value) and "\n" not in str(found.value) and "\x1b" not in str(found.value)


def test_rows_come_with_those_that_they_need_in_the_files_order(tmp_path, file):
    found = read(tmp_path, file)
    assert [row.name for row in with_needed(found, ["stage2-0"])] == ["stage1", "stage2", "stage2-0"]
    assert len(with_needed(found, [])) == 5
    with pytest.raises(IccldError, match="there is no row 'stage3': did you mean"):
        with_needed(found, ["stage3"])
    with pytest.raises(IccldError, match="there is no evaluation 'vall': did you mean 'val'"):
        with_evaluations(found, ["vall"])


def test_comparisons_that_come_with_the_program_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_names() == ["gta5-cityscapes", "synthia-cityscapes"]
    for name in shipped_names():
        found = read_comparison(find_comparison(name))
        assert [row.name for row in found.row] == ["source-only", "stage1", "stage2"]
        assert all(quoted.source for quoted in found.published) and len(found.published) >= 7
    (tmp_path / "gta5-cityscapes").mkdir()  # of `--out gta5-cityscapes`
    assert find_comparison("gta5-cityscapes").is_file()
    assert find_comparison("gta5-cityscapes.toml") == find_comparison("gta5-cityscapes")
    with pytest.raises(IccldError, match="no comparison at gta5: give a TOML file, or one of gta5-cityscapes"):
        find_comparison("gta5")
