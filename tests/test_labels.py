"""Label spaces."""

import json

import pytest

from iccld_cli.errors import IccldError
from iccld_cli.labels import CITYSCAPES, IGNORE, THINGS, LabelSpace, shared_classes


def test_the_benchmark_classes():
    assert len(CITYSCAPES) == 19
    # trainId -> name and colour, as the Cityscapes benchmark publishes them
    assert {CITYSCAPES.names[i]: CITYSCAPES.colors[i] for i in (0, 8, 10, 13, 18)} == {
        "road": (128, 64, 128),
        "vegetation": (107, 142, 35),
        "sky": (70, 130, 180),
        "car": (0, 0, 142),
        "bicycle": (119, 11, 32),
    }
    assert len(set(CITYSCAPES.colors)) == 19
    assert CITYSCAPES.ids_of(THINGS) == (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


def test_names_and_ids_are_inverse():
    assert CITYSCAPES.names_of(CITYSCAPES.ids_of(["sky", "road", "sky"])) == ("road", "sky")
    assert CITYSCAPES.id_of("traffic sign") == 7
    with pytest.raises(IccldError, match="did you mean 'traffic light'"):
        CITYSCAPES.id_of("trafic light")


def test_json_round_trip():
    assert LabelSpace.from_json(json.loads(json.dumps(CITYSCAPES.to_json()))) == CITYSCAPES


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"name": "a"},
        {"name": "a", "classes": 3},
        {"name": "a", "classes": [{"name": "x"}]},
        {"name": "a", "classes": [{"name": "x", "color": [1, 2]}]},
        {"name": "a", "classes": []},
        {"name": "a", "classes": [{"name": "x", "color": [1, 2, 3]}] * 2},
    ],
)
def test_broken_descriptions_are_refused(raw):
    with pytest.raises(IccldError):
        LabelSpace.from_json(raw)


def test_a_space_never_reaches_the_ignore_value():
    names = tuple(f"c{i}" for i in range(256))
    colors = ((0, 0, 0),) * 256
    assert len(LabelSpace("most", names[:IGNORE], colors[:IGNORE])) == 255
    with pytest.raises(IccldError, match="256 classes"):
        LabelSpace("too many", names, colors)


def test_shared_classes():
    assert shared_classes([(0, 3, 5), None, [5, 0, 7]], 19) == (0, 5)
    assert shared_classes([None], 3) == (0, 1, 2)
    assert shared_classes([(1, 25)], 19) == (1,)
    with pytest.raises(IccldError, match="no class in common"):
        shared_classes([(0,), (1,)], 19)
