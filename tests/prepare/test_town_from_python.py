"""`prepare_data` asks for the virtual town as `iccld prepare` does."""

from __future__ import annotations

import pytest

from iccld_cli import prepare_data
from iccld_cli.errors import IccldError

SIZE = (48, 24)


def test_looks_kinds_light_and_rain_are_those_of_the_command(iccld, tmp_path):
    shares = {"urban": 1, "motorway": 3}
    made = prepare_data(
        tmp_path / "a", virtual=1, look=["night", "camera"], kinds=shares, light="night", rain=0.5, size=SIZE, workers=1
    )
    assert [data.info.name for data in made] == ["virtual-night", "virtual-camera"]
    words = ("--look", "night", "--look", "camera", "--kinds", "urban:1,motorway:3", "--light", "night", "--rain", 0.5)
    status, _, error = iccld(
        "prepare", "--virtual", 1, *words, "--size", "48x24", "--workers", 1, "--out", tmp_path / "b"
    )
    assert status == 0, error
    for data in made:
        files = {path.relative_to(data.root) for path in data.root.rglob("*") if path.is_file()}
        same = tmp_path / "b" / data.info.name
        assert {path.relative_to(same) for path in same.rglob("*") if path.is_file()} == files
        assert all((data.root / file).read_bytes() == (same / file).read_bytes() for file in files)
    assert made[1].info.source["options"]["light"] == {"night": 1.0}
    assert made[1].info.source["options"]["rain"] == 0.5


def test_one_look_and_the_two_of_a_source_and_a_target(tmp_path):
    def names(**look):
        return [data.info.name for data in prepare_data(tmp_path, virtual=1, size=SIZE, workers=1, **look)]

    assert names(look="game") == ["virtual-game"]
    assert names() == ["virtual-game", "virtual-camera"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"virtual": 1, "look": "gane"}, "the virtual town has no look 'gane': did you mean 'game'"),
        ({"virtual": 1, "kinds": "motorwy"}, "--kinds: the virtual town has no 'motorwy': did you mean 'motorway'"),
        ({"virtual": 1, "light": {"noon": 1.0}}, "--light: the virtual town has no 'noon'"),
        ({"virtual": 1, "look": ["game"], "light": "day"}, "--light has no effect on the look game"),
        ({"virtual": 1, "look": ["game"], "rain": 0.5}, "it never rains in the look game"),
        ({"virtual": 1, "rain": 2}, "--rain: 2 is no share: give a number from 0 to 1"),
        ({"virtual": 0}, "0 frames of the virtual town cannot be rendered: give 1 to 10,000,000"),
        ({"kinds": "urban"}, "look, kinds, light and rain go with virtual=N"),
        ({"rain": 0.0}, "look, kinds, light and rain go with virtual=N"),
    ],
)
def test_mistakes_are_the_same_sentences(tmp_path, options, says):
    with pytest.raises(IccldError) as caught:
        prepare_data(tmp_path / "out", **options)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_looks_are_looked_at_before_the_first_is_rendered(tmp_path):
    prepare_data(tmp_path, virtual=1, size=SIZE, workers=1)
    with pytest.raises(IccldError, match=r"virtual-camera was prepared with other options \(rain was None, now 0\.5\)"):
        prepare_data(tmp_path, virtual=2, rain=0.5, size=SIZE, workers=1)
    assert prepare_data(tmp_path, virtual=1, size=SIZE, look="game", workers=1)[0].info.splits == {"train": 1}
