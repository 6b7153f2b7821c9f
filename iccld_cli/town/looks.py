"""The looks: how a town is lit, coloured, filmed and populated."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from iccld_cli.errors import IccldError, did_you_mean
from iccld_cli.town.palette import Palette, linear

HIDDEN = 0.4
"""Sunlight weaker than this is a bright patch behind clouds: no shadows, no disc."""


@dataclass
class Light:
    """Light and air of one place and hour; colours are linear RGB.

    Attributes:
        sun: Direction to the sun (3,), unit.
        sun_color: Its light; below HIDDEN it casts no shadow.
        above: Ambient light from the sky.
        below: Ambient light from the ground.
        zenith: Sky colour overhead.
        horizon: Sky colour at the horizon; also the haze.
        cloud: Colour of the clouds.
        cover: Share of the sky under cloud, 0..1.
        haze: Extinction per metre.
        wet: How wet the ground is, 0..1.
        night: How much lamps and windows shine, 0..1.
        offset: Position in the cloud field (2,).
    """

    sun: np.ndarray
    sun_color: np.ndarray
    above: np.ndarray
    below: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    cover: float
    haze: float
    wet: float = 0.0
    night: float = 0.0
    offset: np.ndarray = field(default_factory=lambda: np.zeros(2))


@dataclass
class Sensor:
    """What camera and codec do to the light.

    Attributes:
        exposure: Multiplier.
        metering: How far the exposure follows the brightness of the scene, 0..1.
        balance: White balance multipliers (3,).
        saturation: 1 keeps colours.
        contrast: 1 keeps contrast.
        lift: Veiling glare added to black, display 0..1.
        vignette: Loss of light in the corners, 0..1.
        sharp: Share of the centre sample that is mixed back in after anti-aliasing; 1 gives hard, aliased edges.
        defocus: Gaussian blur, pixels at a width of 512.
        motion: Length of motion blur, pixels at a width of 512.
        noise: Standard deviation of noise at mid grey, display 0..1.
        jpeg: JPEG quality, 0 for none.
        bonnet: Height of the own bonnet, share of the picture; 0 shows none.
        bloom: Share of bright light that spills over.
        metered: Share of the picture, from the top, that the exposure takes no notice of.
        sharpen: Strength of the camera's own sharpening.
        streaks: Strength of rain before the lens, 0..1.
        gain: Most that the exposure is raised in the dark.
    """

    exposure: float = 1.0
    metering: float = 0.0
    balance: np.ndarray = field(default_factory=lambda: np.ones(3))
    saturation: float = 1.0
    contrast: float = 1.0
    lift: float = 0.0
    vignette: float = 0.0
    sharp: float = 0.0
    defocus: float = 0.0
    motion: float = 0.0
    noise: float = 0.0
    jpeg: int = 0
    bonnet: float = 0.0
    bloom: float = 0.0
    metered: float = 0.25
    sharpen: float = 0.0
    streaks: float = 0.0
    gain: float = 12.0


@dataclass
class Mount:
    """Where the camera sits: height above the road (m), pitch, yaw and roll (rad), horizontal view (rad)."""

    height: float
    pitch: float
    yaw: float
    roll: float
    fov: float


@dataclass(frozen=True)
class Style:
    """Everything that differs between the looks of one town.

    Attributes:
        gritty: Weathered textures.
        palette: Colours of things.
        density: Multiplier of traffic and pedestrians.
        yellow: Yellow centre line.
        light: Light and air.
        sensor: Camera electronics.
        mount: Camera pose.
        road: Linear colour of each kind of ground (10, 3).
    """

    gritty: bool
    palette: Palette
    density: float
    yellow: bool
    light: Light
    sensor: Sensor
    mount: Mount
    road: np.ndarray


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector at degrees right of +z and above the horizon."""
    a, e = np.radians(azimuth), np.radians(elevation)
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


def _grounds(*rows: tuple[float, float, float]) -> np.ndarray:
    return np.stack([linear(*r) for r in rows])


def game(rng: np.random.Generator) -> Style:
    """Clean sunny render of a video game: vivid paint, hard shadows, sharp edges, no noise."""
    light = Light(
        sun=_direction(rng.uniform(-140, 140), rng.uniform(32, 58)),
        sun_color=np.array([1.5, 1.38, 1.15]) * 1.35,
        above=np.array([0.46, 0.56, 0.74]),
        below=np.array([0.3, 0.28, 0.25]),
        zenith=linear(38, 104, 214),
        horizon=linear(158, 204, 246),
        cloud=linear(252, 252, 252),
        cover=float(rng.uniform(0.12, 0.42)),
        haze=float(rng.uniform(0.0012, 0.003)),
        offset=rng.uniform(0, 1, 2),
    )
    sensor = Sensor(exposure=float(rng.uniform(0.9, 1.05)), saturation=1.18, contrast=1.06, sharp=0.45)
    mount = Mount(
        float(rng.uniform(1.45, 2.0)),
        np.radians(rng.uniform(1, 5)),
        np.radians(rng.normal(0, 2)),
        0.0,
        np.radians(rng.uniform(70, 84)),
    )
    road = _grounds(
        (104, 106, 112),
        (176, 168, 156),
        (206, 202, 194),
        (98, 164, 58),
        (196, 188, 174),
        (92, 160, 54),
        (178, 140, 94),
        (128, 180, 70),
        (226, 196, 110),
        (78, 132, 48),
    )
    return Style(False, Palette("game", 0.05, 0.2), 1.0, True, light, sensor, mount, road)


WEATHER = np.array((0.28, 0.14, 0.22, 0.18, 0.18))
"""Shares of overcast, haze, low sun, rain and broken cloud by day."""

RAIN = 3


def _weather(rng: np.random.Generator, rain: bool | None) -> Light:
    """Overcast, haze, low sun, rain or broken cloud; ``rain`` decides about rain where it is given."""
    shares = WEATHER * (np.arange(5) != RAIN) if rain is False else WEATHER
    kind = int(rng.choice(5, p=shares / shares.sum()))
    if rain:
        kind = RAIN
    cover, wet, haze = 1.0, 0.0, float(rng.uniform(0.0015, 0.004))
    sun = _direction(rng.uniform(-150, 150), 50)
    # A covered sun still gives forms a lighter side; too weak to cast shadows.
    sun_color = np.full(3, 0.22)
    zenith, horizon = np.array([0.42, 0.46, 0.52]), np.array([0.56, 0.58, 0.6])
    above, below = np.array([0.72, 0.75, 0.8]), np.array([0.2, 0.19, 0.18])
    cloud = np.array([0.72, 0.74, 0.76])
    if kind == 1:
        haze, horizon = float(rng.uniform(0.009, 0.016)), np.array([0.66, 0.66, 0.64])
        zenith, cloud = np.array([0.55, 0.57, 0.6]), np.array([0.68, 0.68, 0.68])
    elif kind == 2:
        sun = _direction(rng.uniform(-100, 100), rng.uniform(8, 24))
        sun_color = np.array([1.25, 0.85, 0.5]) * 1.2
        zenith, horizon = np.array([0.2, 0.27, 0.42]), np.array([0.85, 0.62, 0.42])
        above, below, cover = np.array([0.34, 0.38, 0.48]), np.array([0.2, 0.17, 0.15]), float(rng.uniform(0.3, 0.6))
        cloud = np.array([0.8, 0.6, 0.48])
    elif kind == RAIN:
        wet, haze = float(rng.uniform(0.6, 1)), float(rng.uniform(0.004, 0.009))
        zenith, horizon, above = zenith * 0.75, horizon * 0.78, above * 0.72
    elif kind == 4:
        sun = _direction(rng.uniform(-150, 150), rng.uniform(28, 50))
        sun_color, above = np.array([1.3, 1.2, 1.05]), np.array([0.42, 0.48, 0.58])
        cover, zenith, horizon = float(rng.uniform(0.3, 0.65)), np.array([0.2, 0.32, 0.5]), np.array([0.6, 0.68, 0.74])
    return Light(sun, sun_color, above, below, zenith, horizon, cloud, cover, haze, wet, 0.0, rng.uniform(0, 1, 2))


ROAD_CAMERA = (
    (92, 90, 88),
    (132, 126, 120),
    (142, 138, 132),
    (104, 112, 66),
    (128, 120, 110),
    (98, 108, 60),
    (112, 98, 82),
    (110, 124, 66),
    (166, 148, 104),
    (82, 90, 56),
)


def camera(rng: np.random.Generator, rain: bool | None = None) -> Style:
    """A dashboard camera in a greyer town: weather, muted paint, noise, blur and compression.

    Poses span those of common dashboard cameras: behind the windscreen of a low car to that of a van, 48 to 75 degrees
    across; one in seven looks to a side, as in a turn.
    """
    light = _weather(rng, rain)
    sensor = Sensor(
        exposure=float(np.exp(rng.normal(-0.12, 0.28))),
        metering=0.8,
        balance=np.array([np.exp(rng.normal(0, 0.07)), 1.0, np.exp(rng.normal(-0.02, 0.09))]),
        saturation=float(rng.uniform(0.6, 0.98)),
        contrast=float(rng.uniform(1.0, 1.5)),
        lift=float(rng.uniform(0, 0.03)),
        vignette=float(rng.uniform(0.1, 0.5)),
        sharp=float(rng.uniform(0, 0.5)),
        defocus=float(rng.uniform(0.1, 0.85)),
        motion=float(rng.uniform(0, 2.2)),
        noise=float(rng.uniform(0.004, 0.024)),
        jpeg=int(rng.integers(55, 92)),
        bonnet=float(rng.uniform(0.05, 0.11)) if rng.uniform() < 0.3 else 0.0,
        bloom=0.06,
        metered=float(rng.uniform(0.2, 0.55)),
        sharpen=float(rng.uniform(0, 1.6)),
        streaks=float(rng.uniform(0.3, 1)) if rain else 0.0,
    )
    yaw = rng.normal(0, 3) if rng.uniform() < 0.85 else rng.uniform(-45, 45)
    mount = Mount(
        float(rng.uniform(1.1, 1.9)),
        np.radians(rng.uniform(-3, 4.5)),
        np.radians(yaw),
        np.radians(rng.normal(0, 0.8)),
        np.radians(rng.uniform(48, 75)),
    )
    # One town in four is seen without its leaves.
    bare = float(rng.uniform(0.5, 0.9)) if rng.uniform() < 0.25 else float(rng.uniform(0.02, 0.2))
    return Style(True, Palette("camera", bare, 0.12), 1.25, False, light, sensor, mount, _grounds(*ROAD_CAMERA))


def night(rng: np.random.Generator, rain: bool | None = None) -> Style:
    """The camera's town after dark: street lamps, lit windows, headlights, strong noise."""
    base = camera(rng, rain)
    wet = rng.uniform(0.3, 1) if rng.uniform() < 0.4 else 0.0
    light = Light(
        sun=_direction(rng.uniform(-60, 60), 50),
        sun_color=np.array([0.012, 0.016, 0.026]),
        above=np.array([0.026, 0.032, 0.05]),
        below=np.array([0.02, 0.018, 0.014]),
        zenith=np.array([0.008, 0.012, 0.026]),
        horizon=np.array([0.05, 0.046, 0.05]),
        cloud=np.array([0.03, 0.028, 0.03]),
        cover=float(rng.uniform(0.2, 0.8)),
        haze=float(rng.uniform(0.002, 0.007)),
        wet=float(wet if rain is None else rng.uniform(0.6, 1) if rain else 0.0),
        night=1.0,
        offset=rng.uniform(0, 1, 2),
    )
    sensor = base.sensor
    sensor.exposure *= 0.62
    sensor.noise = float(rng.uniform(0.02, 0.042))
    sensor.bloom, sensor.lift = 0.2, 0.02
    # Without lamps the night stays dark: the sensor's gain ends.
    sensor.gain = 6.0
    return Style(True, base.palette, 1.0, False, light, sensor, base.mount, base.road)


def dusk(rng: np.random.Generator, rain: bool | None = None) -> Style:
    """The camera's town between sunset and dark: a bright rim of sky over dark streets, lamps just lit, some noise."""
    base = camera(rng, rain)
    late = float(rng.uniform(0, 1))
    # From just after sunset to the end of civil twilight the light falls to about a tenth.
    level = 0.42 * 0.14**late
    glow = np.array([1.0, 0.66, 0.42]) if rng.uniform() < 0.6 and not rain else np.array([0.72, 0.72, 0.76])
    light = Light(
        sun=_direction(rng.uniform(-150, 150), 12),
        sun_color=0.25 * level * glow,
        above=level * np.array([0.72, 0.8, 1.05]),
        below=level * np.array([0.26, 0.24, 0.24]),
        zenith=level * np.array([0.42, 0.56, 1.0]),
        horizon=level * 1.9 * glow,
        cloud=level * np.array([0.66, 0.58, 0.66]),
        cover=1.0 if rain else float(rng.uniform(0.2, 0.8)),
        haze=float(rng.uniform(0.0015, 0.006)),
        wet=float(rng.uniform(0.6, 1)) if rain else 0.0,
        night=0.35 + 0.5 * late,
        offset=rng.uniform(0, 1, 2),
    )
    sensor = base.sensor
    sensor.exposure *= 0.72
    sensor.noise = float(rng.uniform(0.012, 0.032))
    sensor.bloom = 0.14
    return Style(True, base.palette, 1.1, False, light, sensor, base.mount, base.road)


LOOKS: tuple[str, ...] = ("game", "camera", "night")
"""Names of the looks."""

BY_HOUR = {"day": camera, "dusk": dusk, "night": night}
"""The camera look at each of `mix.HOURS`."""


def make_style(look: str, rng: np.random.Generator, hour: str | None = None, rain: bool | None = None) -> Style:
    """Draws light, camera and colours of one town in a look.

    Args:
        look: One of LOOKS.
        rng: Source of every choice.
        hour: One of BY_HOUR for the camera look; None for the look's own hour.  The other looks have one hour each.
        rain: Whether it rains; None for the look's own weather.  It never rains in the game.

    Returns:
        The drawn style.

    Raises:
        IccldError: If the look is unknown.
    """
    if look not in LOOKS:
        raise IccldError(f"unknown look {look!r} of the virtual town", did_you_mean(look, LOOKS))
    if look == "game":
        return game(rng)
    if look == "camera":
        return BY_HOUR[hour or "day"](rng, rain)
    return night(rng, rain)
