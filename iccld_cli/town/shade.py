"""Light on the samples of a geometry buffer: texture, sun, sky, shadow, reflections, lamps and haze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iccld_cli.town import ground as ground_mod
from iccld_cli.town import mirror
from iccld_cli.town.atlas import IS_WINDOW, LIT, REFLECT, TILES, Atlas
from iccld_cli.town.gbuffer import GROUND, HILLS, GBuffer, texture_at
from iccld_cli.town.looks import Style
from iccld_cli.town.materials import SIZE
from iccld_cli.town.plan import Plan
from iccld_cli.town.shadow import ContactMap, SunMap
from iccld_cli.town.sky import hill_color, length, sky_color

VEGETATION = 8
F = np.float32


@dataclass
class Shading:
    """Everything the light needs besides the geometry buffer.

    Attributes:
        plan: The street.
        style: The look.
        atlas: Texture tiles.
        sun: Sun shadows, or None when the sun is hidden.
        contact: Contact shadows.
        lamps: Street lamp heads near the camera (L, 3), metres; used after dark.
        forward: Horizontal viewing direction (3,), for the own headlights.
    """

    plan: Plan
    style: Style
    atlas: Atlas
    sun: SunMap | None
    contact: ContactMap
    lamps: np.ndarray
    forward: np.ndarray


def shade(scene: Shading, buf: GBuffer, index: np.ndarray) -> np.ndarray:
    """Light that the chosen samples receive.

    Args:
        scene: Light, textures and shadows.
        buf: Geometry buffer.
        index: Flat sample numbers (N,), N > 0; all see faces, or all ground, or all hills, or all sky.

    Returns:
        Linear RGB (N, 3) float32, unbounded above.
    """
    first = int(buf.ids[index[0]])
    rays = buf.rays.take(index, axis=0)
    light = scene.style.light
    if first < HILLS:
        return sky_color(light, rays)
    if first == HILLS:
        tree = scene.style.palette.foliage(np.random.default_rng((*scene.plan.seed, 19)))[0]
        return hill_color(light, rays, scene.plan.seed, tree)
    out = _ground(scene, buf, index, rays) if first == GROUND else _face(scene, buf, index, rays)
    clear = np.exp(-F(light.haze) * (length(rays) / buf.depth.take(index)))[:, None]
    return out * clear + light.horizon.astype(F) * (1 - clear)


def _stain(scene: Shading, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Slow variation of brightness (N, 1) about 1 over two coordinates in metres."""
    tile = np.full(len(a), TILES["stains"])
    t = scene.atlas.sample(tile, a * F(1 / 13), b * F(1 / 13), np.full(len(a), 1))
    return (t[:, :1].astype(F) * F(2 / 255)) ** 2


def _albedo(texel: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """Texture (N, 4) uint8 under a tint (N, 3), linear."""
    rgb = (texel[:, :3].astype(F) * F(1 / 255)) ** 2
    mask = texel[:, 3:].astype(F) * F(1 / 255)
    return rgb * (1 + mask * (tint - 1))


def _lamps(scene: Shading, pos: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Light of street lamps and of the own headlights (N, 3)."""
    total = np.zeros((len(pos), 3), F)
    warm = np.array([1.0, 0.76, 0.48], F)
    for head in scene.lamps.astype(F):
        to = head - pos
        d2 = np.maximum(np.einsum("nk,nk->n", to, to), F(9))
        facing = np.maximum(np.einsum("nk,nk->n", to, normal) / np.sqrt(d2) * F(0.8) + F(0.2), 0)
        total += (facing * F(34) / d2 * np.clip(to[:, 1] / np.sqrt(d2) * 2, 0, 1))[:, None] * warm
    return total


def _headlights(scene: Shading, buf: GBuffer, rays: np.ndarray, dist: np.ndarray) -> np.ndarray:
    """Light of the own low beam (N,): wide and below the horizon."""
    unit = rays / length(rays)[:, None]
    ahead = unit @ scene.forward.astype(F)
    cone = np.exp(-((1 - ahead) * F(14))) * np.clip(F(0.6) - unit[:, 1] * 12, 0.05, 1)
    return cone * F(26) / (dist + 4) ** 1.6


def _light(
    scene: Shading, buf: GBuffer, pos: np.ndarray, normal: np.ndarray, rays: np.ndarray, leaf: np.ndarray
) -> tuple:
    """Sun (N,) and ambient with lamps (N, 3) at surface points; ``leaf`` (N,) marks plants, which let light through."""
    light = scene.style.light
    up = normal[:, 1:2] * F(0.5) + F(0.5)
    ambient = light.above.astype(F) * up + light.below.astype(F) * (1 - up)
    facing = normal @ light.sun.astype(F)
    sun = np.maximum(np.where(leaf, facing * F(0.62) + F(0.38), facing), 0)
    if scene.sun is not None:
        live = np.flatnonzero(sun > 0)
        slant = 1 - np.minimum(facing[live], 1)
        bias = np.where(leaf[live], F(0.55), F(0.05) + F(0.22) * slant * slant * slant)
        sun[live] *= scene.sun.lit(pos[live] + normal[live] * F(0.05), bias)
    if light.night:
        dist = length(pos - buf.camera.position.astype(F))
        ambient = ambient + F(light.night) * _lamps(scene, pos, normal)
        ambient += F(light.night) * _headlights(scene, buf, rays, dist)[:, None] * np.array([1.0, 0.95, 0.85], F)
    return sun, ambient


def _ground(scene: Shading, buf: GBuffer, index: np.ndarray, rays: np.ndarray) -> np.ndarray:
    style, light, cam = scene.style, scene.style.light, buf.camera
    depth = 1 / buf.depth.take(index)
    kind = buf.ground.kind.take(index)
    pos = rays * depth[:, None] + cam.position.astype(F)
    lat, s = scene.plan.street(pos[:, 0], pos[:, 2])
    pixel = depth / F(cam.focal)
    along = np.maximum(pixel * depth / F(max(cam.position[1], 0.5)), F(1e-3))
    tiles, metres, colors = ground_mod.surfaces(scene.plan, style.road)
    size = metres[kind]
    lod = np.log2(np.maximum(np.sqrt(pixel * along) * SIZE / size, 1e-6)).astype(np.int32)
    texel = scene.atlas.sample(tiles[kind], lat / size, s / size, lod)
    albedo = _albedo(texel, colors[kind])
    albedo *= _stain(scene, lat, s * F(0.45))
    road = np.flatnonzero(kind == ground_mod.ROAD)
    white, gold = ground_mod.markings(scene.plan, lat[road], s[road], pixel[road], along[road], style.yellow)
    worn = F(0.94) if not style.gritty else F(0.3) + F(0.85) * texel[road, 0].astype(F) / 255
    for cover, color in ((white, (0.82, 0.82, 0.8)), (gold, (0.9, 0.62, 0.08))):
        c = np.clip(cover * worn, 0, 1)[:, None].astype(F)
        albedo[road] += (np.array(color, F) * (0.75 if style.gritty else 1.0) - albedo[road]) * c
    normal = np.zeros((len(index), 3), F)
    normal[:, 1] = 1
    sun, ambient = _light(scene, buf, pos, normal, rays, np.zeros(len(index), bool))
    loss = scene.contact.at(pos[:, 0], pos[:, 2]).astype(F)[:, None]
    color = albedo * (
        ambient * (1 - F(0.78) * loss) + (sun * (1 - F(0.5) * loss[:, 0]))[:, None] * light.sun_color.astype(F)
    )
    if light.wet:
        share = mirror.share(light, rays, kind) * (1 - F(0.6) * loss[:, 0])
        bounce = rays * np.array([1, -1, 1], F)
        color = (
            color * (1 - F(0.35) * F(light.wet)) * (1 - share[:, None])
            + sky_color(light, bounce, False) * share[:, None]
        )
    return color


def _variants(tile: np.ndarray, face: np.ndarray, u: np.ndarray, v: np.ndarray, night: bool) -> np.ndarray:
    """Gives every bay of a facade its own window."""
    bay = face.astype(np.uint32) * np.uint32(7919) + np.floor(u).astype(np.uint32) * np.uint32(104729)
    bay += np.floor(v).astype(np.uint32) * np.uint32(1299709)
    bay = (bay ^ (bay >> np.uint32(13))) * np.uint32(2654435761)
    pick = (bay >> np.uint32(20)) % np.uint32(10)
    table = np.array((0, 1, 2, 0, 1, 3, 3, 0, 2, 3) if night else (0, 1, 2, 0, 1, 0, 1, 2, 0, 1))
    return np.where(IS_WINDOW[tile], tile + table[pick], tile)


def _face(scene: Shading, buf: GBuffer, index: np.ndarray, rays: np.ndarray) -> np.ndarray:
    light, cam, faces = scene.style.light, buf.camera, buf.faces
    mesh = faces.mesh
    owner = buf.ids.take(index)
    depth = 1 / buf.depth.take(index)
    pos = rays * depth[:, None] + cam.position.astype(F)
    u, v = texture_at(buf.table, owner, index, depth, cam.samples[0])
    # Windscreens taper, so their mapping leaves the tile at the corners: hold the tile's rim instead of repeating it.
    np.clip(u, 0, mesh.reps[owner, 0] - F(2e-3), out=u)
    np.clip(v, 0, mesh.reps[owner, 1] - F(2e-3), out=v)
    normal = mesh.normals.take(owner, axis=0)
    unit = rays / length(rays)[:, None]
    cosine = np.abs(np.einsum("nk,nk->n", unit, normal))
    stretch = np.sqrt(np.maximum(cosine, F(0.1)))
    lod = np.log2(np.maximum(faces.density.take(owner) * depth / F(cam.focal) / stretch, 1e-6) * F(0.8)).astype(
        np.int32
    )
    tile = _variants(mesh.tiles.take(owner).astype(np.int32), owner, u, v, bool(light.night))
    texel = scene.atlas.sample(tile, u, v, lod)
    tint = mesh.colors.take(owner, axis=0)
    albedo = _albedo(texel, tint)
    label = mesh.labels.take(owner)
    leaf = label == VEGETATION
    still = np.flatnonzero(label < 5)
    albedo[still] *= _stain(scene, pos[still, 0] + pos[still, 2], pos[still, 1] * 2)
    sun, ambient = _light(scene, buf, pos, normal, rays, leaf)
    foot = F(0.62) + F(0.38) * np.clip(pos[:, 1] * F(0.8), 0, 1)
    color = albedo * (ambient * foot[:, None] + sun[:, None] * light.sun_color.astype(F))
    glass = (F(1) - texel[:, 3].astype(F) / 255) * REFLECT[tile]
    gloss = mesh.gloss.take(owner) + glass * F(0.2)
    shiny = np.flatnonzero(gloss > 0.01)
    if len(shiny):
        n, d = normal.take(shiny, axis=0), unit.take(shiny, axis=0)
        bounce = d - 2 * np.einsum("nk,nk->n", d, n)[:, None] * n
        share = gloss[shiny] + (1 - gloss[shiny]) * (1 - cosine[shiny]) ** 4 * F(0.45)
        level = np.clip(bounce[:, 1:2] * 3 + F(0.35), 0, 1)
        seen = sky_color(light, bounce, False) * level + light.below.astype(F) * F(0.35) * (1 - level)
        glint = np.maximum(bounce @ light.sun.astype(F), 0) ** 70 * (sun[shiny] > 0)
        seen += glint[:, None] * light.sun_color.astype(F) * 4
        color[shiny] = color[shiny] * (1 - share[:, None]) + seen * share[:, None]
    glow = mesh.glow.take(owner)
    bright = np.flatnonzero(glow)
    color[bright] += tint[bright] * (glow[bright] * (F(0.35) + F(2.6) * F(light.night)))[:, None]
    if light.night:
        lit = glass * LIT[tile] * F(light.night) * F(0.55)
        color += ((texel[:, :3].astype(F) / 255) ** 2) * lit[:, None]
    return color
