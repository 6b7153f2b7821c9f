"""Kinds of road, hours and rain: what is asked for is what is drawn, and labelled right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from iccld_cli.errors import IccldError
from iccld_cli.town import HOURS, KINDS, Mix, mixes, parse_shares, render, render_drive, render_frame
from iccld_cli.town.mix import Scene
from iccld_cli.town.plan import rise, rng_of

SIZE = (128, 64)
ROAD, WALK, BUILDING, SIGN, TERRAIN, SKY, PERSON, IGNORE = 0, 1, 2, 7, 9, 10, 11, 255


def shares(kind: str, frames: int = 10) -> np.ndarray:
    count = np.zeros(256)
    for index in range(frames):
        label = render_frame(4, index, "camera", SIZE, Mix(kinds=((kind, 1.0),)))[1]
        count += np.bincount(label.ravel(), minlength=256)
    return count / count.sum()


def test_a_motorway_has_rails_verges_and_signs_but_no_walks_or_people():
    share = shares("motorway")
    assert share[[WALK, PERSON, 12, 18]].sum() == 0, "sidewalk, person, rider, bicycle"
    assert share[ROAD] > 0.25
    assert share[TERRAIN] > 0.03
    assert share[SIGN] > 0.001, "boards"
    assert 0.005 < share[IGNORE] < 0.25, "safety barriers, which trainIds ignore, and the bonnet"
    assert share[13:15].sum() > 0.01, "cars and lorries"


def test_a_country_road_runs_between_verges_and_plants():
    share = shares("country")
    assert share[WALK] == share[PERSON] == 0
    assert share[TERRAIN] > 0.05
    assert share[8] > 0.1, "vegetation"
    assert share[BUILDING] < 0.08


def test_a_street_in_town_keeps_its_people():
    share = shares("urban", 16)
    assert 0.2 < share[ROAD] < 0.45
    assert 0.03 < share[WALK] < 0.12
    assert 0.15 < share[BUILDING] < 0.4
    assert share[PERSON] > 0.007
    assert share[13] > 0.02, "car"


@pytest.mark.parametrize("kind", ["motorway", "country"])
def test_the_embankment_meets_the_road_and_hides_what_is_behind(kind: str):
    heights = []
    for number in range(6):
        plan = render.make_town((number,), "camera", Scene(kind)).plan
        heights += [rise(plan, side, s) for side in (0, 1) for s in np.arange(400.0, 700.0, 5.0)]
        steps = np.abs(np.diff([rise(plan, 0, s) for s in np.arange(400.0, 700.0, 1.0)]))
        assert steps.max(initial=0) < 0.5, "no cliffs along the road"
    assert min(heights) == 0.0
    assert max(heights) > 0.5


def test_lanes_of_a_motorway_lie_between_median_and_shoulder():
    for number in range(8):
        plan = render.make_town((number, 1), "game", Scene("motorway")).plan
        lanes = [plan.lane_at(k) for k in range(plan.lanes)]
        assert plan.median < lanes[0] - plan.lane / 2
        assert lanes[-1] + plan.lane / 2 == pytest.approx(plan.drive_half)
        assert plan.half(0) - plan.drive_half == pytest.approx(plan.shoulder)
        assert 2 <= plan.lanes <= 4
        assert not plan.crossings(0, 5000)
        assert not plan.zebras(0, 5000)


def test_shares_hold_in_every_run_of_frames_and_are_independent():
    mix = Mix(parse_shares("urban:6,motorway:2,country:2", KINDS, "--kinds"), (("day", 0.75), ("night", 0.25)), 0.2)
    for start in (0, 10_000_000, 123):
        scenes = [mix.scene(3, start + k) for k in range(400)]
        kinds = Counter(scene.kind for scene in scenes)
        assert kinds["urban"] == pytest.approx(240, abs=8)
        assert kinds["motorway"] == pytest.approx(80, abs=8)
        assert sum(bool(scene.rain) for scene in scenes) == pytest.approx(80, abs=8)
        assert sum(s.kind == "urban" and s.hour == "night" for s in scenes) == pytest.approx(60, abs=12)
        assert sum(s.hour == "night" and bool(s.rain) for s in scenes) == pytest.approx(20, abs=8)
    assert Mix().scene(0, 5) == Scene("urban", None, None)


def test_shares_are_read_in_any_order_and_divided_by_their_sum():
    assert parse_shares("country:1, urban:3", KINDS, "--kinds") == (("urban", 0.75), ("country", 0.25))
    assert parse_shares("night", HOURS, "--light") == (("night", 1.0),)
    assert parse_shares("day:1,dusk:0", HOURS, "--light") == (("day", 1.0),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("urban:0.5,motorwy:0.5", "did you mean 'motorway'"),
        ("urban:1,urban:2", "twice"),
        ("urban:-1", "no share"),
        ("urban:nan", "no share"),
        ("urban:inf", "no share"),
        ("urban:0", "add up to 0"),
        ("", "has no ''"),
    ],
)
def test_shares_that_mean_nothing_are_refused(text: str, says: str):
    with pytest.raises(IccldError, match=says):
        parse_shares(text, KINDS, "--kinds")


def luma(hour: str, rain: float, kind: str = "urban") -> list[np.ndarray]:
    mix = Mix(((kind, 1.0),), ((hour, 1.0),), rain)
    return [render_frame(6, k, "camera", SIZE, mix)[0].astype(float).mean(-1) for k in range(6)]


def test_it_gets_darker_from_day_over_dusk_to_night():
    day, dusk, night = (np.mean(luma(hour, 0.0)) for hour in HOURS)
    assert day > dusk + 15 > night + 30


def test_hour_and_rain_do_not_move_the_street():
    scenes = [Scene("urban", hour, rain) for hour in HOURS for rain in (True, False)]
    plans = [render.make_town((7, 0), "camera", scene).plan for scene in scenes]
    assert len({(plan.lane, plan.walk, plan.period, plan.zones.tobytes()) for plan in plans}) == 1


def test_wet_roads_mirror_and_rain_is_always_wet():
    for hour in HOURS:
        wet = [render.make_town((k,), "camera", Scene("urban", hour, True)).style for k in range(4)]
        dry = [render.make_town((k,), "camera", Scene("urban", hour, False)).style for k in range(4)]
        assert all(style.light.wet >= 0.6 and style.sensor.streaks > 0 for style in wet)
        assert all(style.light.wet == 0 and style.sensor.streaks == 0 for style in dry)


def test_the_game_knows_no_hour_and_no_rain():
    image = render_frame(1, 0, "game", SIZE)[0]
    assert np.array_equal(image, render_frame(1, 0, "game", SIZE, Mix(light=(("night", 1.0),), rain=1.0))[0])


def test_an_unknown_kind_is_refused():
    with pytest.raises(IccldError, match="did you mean 'country'"):
        render_frame(0, 0, "game", SIZE, Mix(kinds=(("contry", 1.0),)))


@pytest.mark.parametrize("look", ["game", "camera", "night"])
@pytest.mark.parametrize("mix", [Mix(), Mix((("motorway", 0.5), ("country", 0.5)), (("night", 1.0),), 0.5)])
def test_a_drive_goes_through_the_town_of_the_first_frame(look: str, mix: Mix):
    """Frame by frame, and with no shares that of a street in town by the look's own light."""
    scene = Scene() if mix == Mix() else mix.scene(5, 0)
    town = render.make_town((5, 0), look, scene)
    town.style.mount.yaw = float(np.clip(town.style.mount.yaw, -0.1, 0.1))
    for k, (image, label) in enumerate(render_drive(5, 2, look, SIZE, mix=mix)):
        wanted = render.draw(town, town.start + town.speed * k / 25, k / 25, SIZE, rng_of(5, 3, k))
        assert np.array_equal(image, wanted[0])
        assert np.array_equal(label, wanted[1])


def test_a_look_gets_the_shares_that_it_can_show():
    found = mixes(["game", "night", "camera"], {"motorway": 1, "urban": 3}, "night:1,day:3", 0.25)
    roads = (("urban", 0.75), ("motorway", 0.25))
    assert found == {
        "game": Mix(roads),
        "night": Mix(roads, (), 0.25),
        "camera": Mix(roads, (("day", 0.75), ("night", 0.25)), 0.25),
    }
    assert mixes(["camera"]) == {"camera": Mix()}


@pytest.mark.parametrize(
    ("looks", "options", "says"),
    [
        (["camra"], {}, "has no look 'camra': did you mean 'camera'"),
        (["game"], {"light": "night"}, "--light has no effect on the look game"),
        (["game", "game"], {"rain": 0.5}, "it never rains in the look game"),
        (["night"], {"rain": 1.5}, "--rain: 1.5 is no share: give a number from 0 to 1"),
        (["night"], {"rain": float("nan")}, "--rain: nan is no share"),
        (["game"], {"kinds": {"contry": 1.0}}, "--kinds: the virtual town has no 'contry': did you mean 'country'"),
        (["game"], {"kinds": {"country": -1.0}}, "--kinds: '-1.0' is no share"),
        (["game"], {"kinds": {}}, "--kinds: the virtual town has no ''"),
    ],
)
def test_options_that_mean_nothing_are_refused(looks, options, says):
    with pytest.raises(IccldError) as caught:
        mixes(looks, **options)
    assert says in str(caught.value)
