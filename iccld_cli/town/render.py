"""Puts a town, a camera and a look together into frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from iccld_cli.errors import IccldError
from iccld_cli.town import gbuffer, ground, layout, sky, traffic
from iccld_cli.town.atlas import build_atlas
from iccld_cli.town.camera import SUPER, Camera, make_camera
from iccld_cli.town.looks import HIDDEN, LOOKS, Style, make_style
from iccld_cli.town.mesh import Mesh, merge, place_all
from iccld_cli.town.mirror import add_reflections
from iccld_cli.town.mix import Mix, Scene
from iccld_cli.town.plan import CHUNK, Plan, rng_of
from iccld_cli.town.roads import make_plan
from iccld_cli.town.sensor import bonnet_mask, expose
from iccld_cli.town.shade import Shading, shade
from iccld_cli.town.shadow import MAP, contact_map, sun_map
from iccld_cli.town.traffic import Ego

DEFAULT = Scene()
ALL_URBAN = Mix()

SPEEDS = {"urban": (6, 12), "motorway": (20, 34), "country": (11, 25)}
"""Range of driving speeds on each kind of road, m/s."""

MIN_SIZE = 16
"""Smallest picture edge in pixels."""

AHEAD = 6
"""Chunks of a town drawn in front of the camera's own."""

FAR_AHEAD = 9
"""The same outside towns."""

IGNORE = 255

BLOCK = 1 << 14
"""Samples shaded at once: few enough for the intermediate arrays to stay in the processor's cache."""


@dataclass
class Town:
    """One drive's town: street, look, and the chunks furnished so far.

    Attributes:
        plan: The street.
        style: The look.
        start: Where the drive begins, metres along the street.
        lat: The camera's lane, metres right of the centre line.
        speed: Metres per second.
        chunks: Furnished chunks by number and level of detail; only those near the camera are kept.
    """

    plan: Plan
    style: Style
    start: float
    lat: float
    speed: float
    chunks: dict[tuple[int, int], Mesh] = field(default_factory=dict)

    def near(self, s: float) -> list[Mesh]:
        """Furniture of the chunks seen from position ``s``."""
        here = int(s // CHUNK)
        # Outside towns the view is wide, and the few objects there are drawn quickly.
        ahead = AHEAD if self.plan.kind == "urban" else FAR_AHEAD
        want = [(here + k, 2 if k < 2 else 1 if k < 4 else 0) for k in range(ahead + 1)]
        self.chunks = {key: mesh for key, mesh in self.chunks.items() if key in want}
        for key in want:
            if key not in self.chunks:
                self.chunks[key] = layout.furnish(self.plan, self.style.palette, *key)
        return [self.chunks[key] for key in want]


def make_town(seed: tuple[int, ...], look: str, scene: Scene = DEFAULT) -> Town:
    """Draws a town and the drive through it.

    Args:
        seed: Non-negative ints naming it.
        look: One of LOOKS.
        scene: Kind of road, hour and rain.

    Returns:
        The town.

    Raises:
        IccldError: If the look or the kind of road is unknown.
    """
    key = (*seed, LOOKS.index(look) if look in LOOKS else 0)
    rng = rng_of(*key, 2)
    style = make_style(look, rng, scene.hour, scene.rain)
    plan = make_plan(key, style.density, scene.kind)
    lane = int(rng.integers(plan.lanes))
    lat = plan.lane_at(lane) + float(np.clip(rng.normal(0.1, 0.3), -0.5, 0.6))
    start, speed = float(rng.uniform(300, 2000)), float(rng.uniform(*SPEEDS[scene.kind]))
    if plan.period and rng.uniform() < 0.15:
        # Before a crossing, or in the middle of it.
        start = plan.crossings(start, start + 2 * plan.period * CHUNK)[0] + float(rng.uniform(-12, 3))
    return Town(plan, style, start, lat, speed)


def check(look: str, size: tuple[int, int], seed: int, index: int = 0) -> None:
    """Raises IccldError for an unknown look, a picture that is too small or a negative number."""
    if min(seed, index) < 0:
        raise IccldError(f"the virtual town has no negative seed or frame ({seed}, {index})", "count from 0")
    if look not in LOOKS:
        make_style(look, rng_of(0))
    if min(size) < MIN_SIZE:
        raise IccldError(
            f"a picture of {size[0]} x {size[1]} pixels is too small for the virtual town",
            f"choose at least {MIN_SIZE} x {MIN_SIZE}",
        )


def view(town: Town, s: float, time: float, size: tuple[int, int]) -> Camera:
    """The camera on its mount, with the small sway of a driving car.

    Args:
        town: The town.
        s: Metres along the street.
        time: Seconds since the drive began.
        size: Width and height, pixels.

    Returns:
        The camera.
    """
    mount = town.style.mount
    pos, heading = town.plan.place(town.lat, s, y=mount.height + 0.012 * np.sin(2.1 * time))
    _, later = town.plan.place(town.lat, s + 14)
    pitch = mount.pitch + 0.0025 * np.sin(1.7 * time) + 0.0012 * np.sin(6.3 * time)
    yaw = mount.yaw + 0.35 * (later - heading)
    return make_camera(pos, heading + yaw, pitch, mount.roll + 0.002 * np.sin(1.3 * time), mount.fov, size)


def draw(
    town: Town, s: float, time: float, size: tuple[int, int], noise: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Renders one frame.

    Args:
        town: The town.
        s: Metres along the street.
        time: Seconds since the drive began.
        size: Width and height, pixels.
        noise: Source of the sensor noise.

    Returns:
        Display RGB (H, W, 3) uint8 and trainIds (H, W) uint8.
    """
    camera = view(town, s, time, size)
    style, plan = town.style, town.plan
    atlas = build_atlas(style.gritty)
    moving = traffic.moving(plan, style.palette, Ego(town.lat, s, town.speed), time)
    mesh = merge([*town.near(s), *([place_all(moving)] if moving else [])])
    right, up = camera.rotation[0].astype(np.float32), -camera.rotation[1].astype(np.float32)
    faces = gbuffer.prepare(mesh, gbuffer.turn_sprites(mesh, right, up))
    rays = camera.rays()
    hit = ground.cast_grid(plan, camera, rays)
    buf = gbuffer.draw(camera, faces, atlas, hit, rays)
    free = np.flatnonzero(buf.ids == gbuffer.SKY)
    buf.ids[free[sky.is_hill(rays[free], plan.seed)]] = gbuffer.HILLS
    forward = camera.rotation[2] * (1, 0, 1)
    focus = camera.position + forward * 30
    focus[1] = 2.0
    bright = style.light.sun_color.max() > HIDDEN
    sun = sun_map(mesh, faces, atlas, style.light.sun, focus, MAP * (1 + (size[0] > 640))) if bright else None
    lamps = layout.lamp_heads(plan, s - 10, s + 90) if style.light.night else np.zeros((0, 3))
    shading = Shading(plan, style, atlas, sun, contact_map(faces, focus), lamps, forward / np.linalg.norm(forward))
    light = _resolve(shading, buf)
    if style.light.wet:
        add_reflections(buf, style.light, light)
    image = expose(light, style.sensor, style.light.horizon, noise)
    label = buf.label()
    label[bonnet_mask(style.sensor, size)] = IGNORE
    return image, label


def _resolve(shading: Shading, buf: gbuffer.GBuffer) -> np.ndarray:
    """Shades every pixel once and the samples between pixels only where something ends; returns (H, W, 3) light."""
    w, h = buf.camera.samples
    ids = buf.ids
    key = buf.grid(np.where(ids == gbuffer.GROUND, np.int32(-10) - buf.ground.kind, ids))
    # Differences between neighbours along rows, then along columns, find every pixel whose 3x3 samples disagree.
    pad = np.pad(key, ((1, 0), (1, 0)), "edge")
    step = pad[:, 1:] != pad[:, :-1]
    row = step[:, ::SUPER] | step[:, 1::SUPER]
    # Sample column 2x of every padded row against the row of the centre.
    down = pad[1:, 1::SUPER] != pad[:-1, 1::SUPER]
    edge = row[:-1:SUPER] | row[1::SUPER] | row[2::SUPER] | down[::SUPER] | down[1::SUPER]
    want = np.zeros((h + 1, w + 1), bool)
    for dy in range(3):
        for dx in range(3):
            want[dy : dy + h : SUPER, dx : dx + w : SUPER] |= edge
    want[1::SUPER, 1::SUPER] = True
    index = np.flatnonzero(want[1:, 1:].ravel())
    seen = np.minimum(ids.take(index), 0)
    full = np.empty((h * w, 3), np.float32)
    for kind in (0, gbuffer.GROUND, gbuffer.HILLS, gbuffer.SKY):
        alike = index[seen == kind]
        for start in range(0, len(alike), BLOCK):
            part = alike[start : start + BLOCK]
            full[part] = shade(shading, buf, part)
    centre = np.ascontiguousarray(full.reshape(h, w, 3)[::SUPER, ::SUPER])
    y, x = np.nonzero(edge)
    mean = np.zeros((len(y), 3), np.float32)
    for dy, wy in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        at = np.maximum(y * SUPER + dy, 0) * w
        for dx, wx in ((-1, 0.25), (0, 0.5), (1, 0.25)):
            # Very bright samples are held back so that one glint does not turn a whole edge pixel white.
            mean += np.float32(wy * wx) * np.minimum(full.take(at + np.maximum(x * SUPER + dx, 0), axis=0), 2)
    share = np.float32(1 - shading.style.sensor.sharp)
    own = centre[edge]
    centre[edge] = own + (mean - own) * share
    return centre


def render_frame(
    seed: int, index: int, look: str, size: tuple[int, int], mix: Mix = ALL_URBAN
) -> tuple[np.ndarray, np.ndarray]:
    """Renders one labelled frame of its own town; a pure function of its arguments.

    Args:
        seed: Identity of the data set, >= 0.
        index: Number of the frame, >= 0.
        look: One of LOOKS.
        size: Width and height, pixels, each at least 16.
        mix: Shares of the set's kinds of road, hours and rain; light and rain are those of the camera's looks.

    Returns:
        Display RGB (H, W, 3) uint8 and Cityscapes trainIds (H, W) uint8 with 255 to ignore.

    Raises:
        IccldError: If the look is unknown, the size too small or a number negative.
    """
    check(look, size, seed, index)
    town = make_town((seed, index), look, mix.scene(seed, index))
    time = float(rng_of(seed, index, 4).uniform(0, 60))
    return draw(town, town.start, time, size, rng_of(seed, index, 3))


def render_drive(
    seed: int, frames: int, look: str, size: tuple[int, int], fps: float = 25.0, mix: Mix = ALL_URBAN
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Renders consecutive frames of one drive through one town, that of frame 0 of the set with the same seed and mix.

    Args:
        seed: Identity of the drive, >= 0.
        frames: Number of frames.
        look: One of LOOKS.
        size: Width and height, pixels, each at least 16.
        fps: Frames per second.
        mix: Shares of kinds of road, hours and rain; the drive has one of each, `mix.scene(seed, 0)`.

    Yields:
        Display RGB (H, W, 3) uint8 and Cityscapes trainIds (H, W) uint8 per frame.

    Raises:
        IccldError: If the look is unknown, the size too small, the seed negative or the frame rate not above 0.
    """
    check(look, size, seed)
    if fps <= 0:
        raise IccldError(f"a drive cannot run at {fps} frames per second", "choose a rate above 0")
    town = make_town((seed, 0), look, mix.scene(seed, 0))
    # A drive looks ahead, wherever single frames look.
    town.style.mount.yaw = float(np.clip(town.style.mount.yaw, -0.1, 0.1))
    for k in range(frames):
        time = k / fps
        yield draw(town, town.start + town.speed * time, time, size, rng_of(seed, 3, k))
