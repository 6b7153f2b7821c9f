"""What stands along a street in town: ground floors, pavements, buses."""

import numpy as np
import pytest

from iccld_cli.town import ground, vehicles
from iccld_cli.town.atlas import TILES
from iccld_cli.town.buildings import BUILDING, STOREY, building
from iccld_cli.town.fronts import FRONTS, QUIET, TRADE
from iccld_cli.town.roads import make_plan

BUS = 15


def ground_floor(seed: int, kind: str) -> tuple[set[str], set[int]]:
    """Tiles of the street front's lowest storey, and the labels of the whole building."""
    mesh = building(np.random.default_rng(seed), kind, 24.0, 10.0, 4)
    names = list(TILES)
    low = (np.abs(mesh.quads[:, :, 0]) < 0.05).all(1) & (mesh.quads[:, :, 1] <= STOREY + 0.01).all(1)
    return {names[tile] for tile in mesh.tiles[low]}, set(mesh.labels.tolist())


def test_shops_of_one_building_have_fronts_of_their_own() -> None:
    rows = [ground_floor(seed, "block")[0] & set(TRADE) for seed in range(30)]
    assert sum(len(row) >= 2 for row in rows) >= 10
    assert len(set().union(*rows)) > len(TRADE) // 2


def test_where_nothing_is_sold_there_are_bases_openings_and_grilles() -> None:
    rows = [ground_floor(seed, "office")[0] for seed in range(30)]
    assert any(row & set(QUIET) and not row & set(TRADE) for row in rows)


def test_houses_keep_their_ground_floor() -> None:
    assert not any(ground_floor(seed, "house")[0] & set(FRONTS) for seed in range(10))


def test_whatever_a_ground_floor_looks_like_it_is_building() -> None:
    assert all(ground_floor(seed, kind)[1] == {BUILDING} for seed in range(10) for kind in ("block", "office"))


@pytest.mark.parametrize("gritty", [False, True])
def test_tiles_of_ground_floors_have_no_holes_and_differ(gritty: bool) -> None:
    tiles = [paint(rng=np.random.default_rng([3, k]), gritty=gritty) for k, paint in enumerate(FRONTS.values())]
    assert all(np.isfinite(tile).all() and (tile[..., 4] == 1).all() for tile in tiles)
    means = np.array([tile[..., :3].mean((0, 1)) for tile in tiles])
    assert np.ptp(means, axis=0).min() > 0.2


def test_streets_are_paved_with_slabs_asphalt_or_concrete() -> None:
    colors = np.linspace(0.1, 0.9, 30).reshape(10, 3)
    plans = [make_plan((seed,), 1.0) for seed in range(40)]
    found = {plan.seed: ground.surfaces(plan, colors) for plan in plans}
    walks = [int(tiles[ground.WALK]) for tiles, _, _ in found.values()]
    assert set(walks) == {TILES[name] for name in ("paver", "asphalt", "concrete")}
    for tiles, metres, own in found.values():
        changed = np.flatnonzero(tiles != ground.GROUND_TILES)
        assert set(changed) <= {ground.WALK} and (metres > 0).all()
        if tiles[ground.WALK] == TILES["asphalt"]:  # of the road's own colour, a little lighter or darker
            ratio = own[ground.WALK] / own[ground.ROAD]
            assert np.ptp(ratio) < 1e-5 and 0.8 < ratio[0] < 1.35
        else:
            assert np.allclose(own, colors)


def test_the_bus_of_two_decks_towers_over_the_others() -> None:
    tops = [float(vehicles.bus(kind).quads[..., 1].max()) for kind in range(4)]
    assert np.argmax(tops) == 2 and tops[2] > 4.2 and max(tops[:2]) < 3.5 < tops[3]
    for kind in range(4):
        mesh = vehicles.bus(kind)
        assert set(mesh.labels.tolist()) == {BUS} and mesh.quads[..., 1].min() > -0.02
