"""The town's renderer on small constructed scenes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from iccld_cli.town import gbuffer, ground, nature, raster, render, street
from iccld_cli.town.atlas import TILES, build_atlas
from iccld_cli.town.camera import SUPER, Camera, make_camera
from iccld_cli.town.mesh import Builder, Look, Mesh, merge
from iccld_cli.town.plan import KERB, Plan
from iccld_cli.town.roads import make_plan

SIZE = (160, 80)
CAR, BUS = 13, 15


@pytest.fixture(scope="module")
def camera() -> Camera:
    return make_camera(np.array([0.0, 1.5, 0.0]), 0.0, 0.0, 0.0, np.radians(70), SIZE)


@pytest.fixture(scope="module")
def straight() -> Plan:
    plan = make_plan((1,), 1.0)
    return Plan(**{**plan.__dict__, "bends": np.zeros((0, 3)), "period": 1000})


def box(z: float, label: int, width: float = 2.0, height: float = 2.0, x: float = 0.0) -> Mesh:
    b = Builder(TILES)
    b.box((x, height / 2, z), (width, height, 0.5), Look(label))
    return b.build()


def draw(camera: Camera, mesh: Mesh, plan: Plan) -> gbuffer.GBuffer:
    rays = camera.rays()
    faces = gbuffer.prepare(mesh, gbuffer.turn_sprites(mesh, camera.rotation[0], -camera.rotation[1]))
    hit = ground.cast(plan, camera.position, rays)
    return gbuffer.draw(camera, faces, build_atlas(False), hit, rays)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_box_hides_the_farther_one(camera: Camera, straight: Plan, order: tuple[int, int]) -> None:
    parts = [box(8.0, CAR), box(16.0, BUS, width=12.0)]
    label = draw(camera, merge([parts[k] for k in order]), straight).label()
    row = label[40]
    assert row[80] == CAR
    assert row[45] == BUS
    assert row[115] == BUS


def test_crossing_boxes_are_split_where_they_meet(camera: Camera, straight: Plan) -> None:
    b = Builder(TILES)
    b.faces([[(-3, 2, 6), (3, 2, 12), (3, 0, 12), (-3, 0, 6)]], Look(CAR), normals=np.array([[0, 0, -1.0]]))
    b.faces([[(-3, 2, 12), (3, 2, 6), (3, 0, 6), (-3, 0, 12)]], Look(BUS), normals=np.array([[0, 0, -1.0]]))
    row = draw(camera, b.build(), straight).label()[40]
    assert row[70] == CAR
    assert row[90] == BUS


def test_twice_as_far_is_half_as_tall(camera: Camera, straight: Plan) -> None:
    def rows(z: float) -> int:
        return int((draw(camera, box(z, CAR, 1.0, 1.4), straight).label()[:, 80] == CAR).sum())

    assert rows(6.25) == pytest.approx(2 * rows(12.25), abs=1)


def test_labels_lie_where_the_camera_projects_the_corners(camera: Camera, straight: Plan) -> None:
    mesh = box(10.25, CAR, 2.0, 2.0, x=1.0)
    label = draw(camera, mesh, straight).label()
    x, y, _ = camera.project(np.array([[0.0, 2.0, 10.0], [2.0, 0.0, 10.0]]))
    rows, cols = np.nonzero(label == CAR)
    assert (cols.min(), cols.max()) == (np.ceil(x[0]), np.floor(x[1]))
    assert (rows.min(), rows.max()) == (np.ceil(y[0]), np.floor(y[1]))


def test_a_face_through_the_camera_plane_is_drawn_only_in_front(camera: Camera, straight: Plan) -> None:
    b = Builder(TILES)
    b.faces([[(2, 3, -10), (2, 3, 30), (2, 0, 30), (2, 0, -10)]], Look(CAR), normals=np.array([[-1.0, 0, 0]]))
    label = draw(camera, b.build(), straight).label()
    assert (label[20:60, 150] == CAR).all()
    assert not (label[:, :79] == CAR).any()


def test_depth_of_the_ground_is_that_of_a_plane(camera: Camera, straight: Plan) -> None:
    hit = ground.cast(straight, camera.position, camera.rays())
    kind, depth = hit.kind.reshape(160, 320), hit.depth.reshape(160, 320)
    row, col = 70 * SUPER, 80 * SUPER
    assert kind[row, col] == ground.ROAD
    assert 1 / depth[row, col] == pytest.approx(1.5 * camera.focal / (70 - 39.5), rel=1e-4)
    row = 45 * SUPER
    walk = np.argwhere(kind[row] == ground.WALK)[-1, 0]
    assert 1 / depth[row, walk] == pytest.approx((1.5 - KERB) * camera.focal / (45 - 39.5), rel=1e-4)


def test_street_coordinates_undo_placement() -> None:
    plan = make_plan((3,), 1.0)
    for lat, s in ((0.0, 50.0), (6.0, 333.3), (-9.0, 801.0)):
        pos, _ = plan.place(lat, s)
        back = plan.street(np.array([pos[0]]), np.array([pos[2]]))
        assert back[0][0] == pytest.approx(lat, abs=0.05)
        assert back[1][0] == pytest.approx(s, abs=0.05)


@pytest.mark.parametrize("kind", ["bars", "mesh", "picket"])
def test_holes_of_a_fence_show_what_is_behind_and_are_labelled_fence(camera: Camera, straight: Plan, kind: str) -> None:
    fence = street.fence(kind, 6.0, 1.5).moved((-3.0, 0.0, 5.0), np.pi / 2)
    buf = draw(camera, merge([fence, box(9.0, BUS, 12.0, 3.0)]), straight)
    seen = buf.faces.mesh.labels[buf.grid(buf.ids)[::SUPER, ::SUPER][44:50, 40:120]]
    assert (seen == street.FENCE).any()
    assert (seen == BUS).any()
    assert (buf.label()[44:50, 40:120] == street.FENCE).all()


def test_holes_cover_nothing_nearer(camera: Camera, straight: Plan) -> None:
    fence = street.fence("mesh", 6.0, 1.5).moved((-3.0, 0.0, 5.0), np.pi / 2)
    crown = nature.tree("bare", 0, 2).moved((4.0, -2.5, 8.0))
    cars = merge([box(3.5, CAR, 0.6, 1.2), box(4.5, CAR, 1.2, 3.0, x=2.6)])
    alone = draw(camera, cars, straight).label() == CAR
    label = draw(camera, merge([fence, crown, cars]), straight).label()
    assert alone.sum() > 1000
    assert (label[alone] == CAR).all()


def test_a_bare_crown_is_labelled_without_the_sky_between_its_twigs(camera: Camera, straight: Plan) -> None:
    buf = draw(camera, nature.tree("bare", 1, 2).moved((0.0, -2.5, 11.0)), straight)
    label, plants = buf.label(), nature.VEGETATION
    ids = buf.grid(buf.ids)[::SUPER, ::SUPER]
    outline = cv2.fillPoly(np.zeros(label.shape, np.uint8), cv2.findContours((ids >= 0).astype(np.uint8), 0, 2)[0], 1)

    def inner(mask: np.ndarray) -> int:
        return int((outline[mask & (np.arange(len(label)) < 36)[:, None]] > 0).sum())

    assert inner(ids == gbuffer.SKY) > 50
    assert inner(label == gbuffer.SKY_LABEL) == 0
    assert (label[ids >= 0] == plants).all()


def test_the_open_space_below_a_crown_is_not_labelled_plant(camera: Camera, straight: Plan) -> None:
    label = draw(camera, nature.tree("round", 0, 2).moved((0.0, 0.0, 12.0)), straight).label()
    beside = np.r_[label[34, 70:76], label[34, 85:91]]
    assert (label[34, 78:83] == nature.VEGETATION).any()
    assert (label[:28, 70:91] == nature.VEGETATION).any(0).all()
    assert (beside != nature.VEGETATION).all()


def test_gaps_close_by_their_width_in_the_world_and_only_over_what_lies_behind() -> None:
    near, depth = np.zeros((2, 40, 60), np.float32)
    near[10:30, 10:20] = near[10:30, 24:34] = near[10:30, 46:50] = 1 / 10
    depth[:] = near
    depth[18:20, 20:24] = 1 / 8
    # Ten metres away, a gap of 4 pixels is 0.4 m wide at a focal length of 100 pixels, one of 12 is 1.2 m.
    closed = gbuffer.close_gaps(near, depth, 0.5 / 2 * 100)
    assert closed[13:18, 20:24].all()
    assert closed[20:27, 20:24].all()
    closed[10:18, 20:24] = closed[20:30, 20:24] = False
    assert not closed.any()
    assert not gbuffer.close_gaps(near, depth, 0.2 / 2 * 100).any()


def test_image_and_label_come_from_the_same_geometry() -> None:
    town = render.make_town((21,), "game")
    town.style.sensor.sharp = 1.0
    image, label = render.draw(town, town.start, 3.0, (192, 96), np.random.default_rng(0))
    # Without anti-aliasing a label edge against the sky is an edge of the picture in the same pixel.
    sky = label == 10
    beside = sky[:, 1:] != sky[:, :-1]
    step = np.abs(image[:, 1:].astype(int) - image[:, :-1]).sum(-1)
    assert np.median(step[beside]) > 4 * np.median(step[~beside] + 1)


def test_resolve_keeps_the_largest_depth() -> None:
    zbuf, ids = np.zeros(3, np.float32), np.full(3, -1, np.int32)
    depth = np.array([0.2, 0.5, 0.3], np.float32)
    raster.resolve(zbuf, ids, np.array([1, 1, 2]), depth, np.array([7, 8, 9], np.int32))
    assert ids.tolist() == [-1, 8, 9]
    assert zbuf.tolist() == [0.0, 0.5, pytest.approx(0.3)]
