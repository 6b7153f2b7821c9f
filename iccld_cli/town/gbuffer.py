"""Geometry pass: which face, ground or backdrop every sample sees, and at which depth.

Image and label are both read from this one buffer, which is why they agree at every pixel, but for the holes of leaves,
twigs, fences and spokes: the picture shows what lies behind, the label is that of the object, as a human annotator
outlines it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from iccld_cli.town import raster
from iccld_cli.town.atlas import CUTOUT, LEVELS, Atlas
from iccld_cli.town.camera import SUPER, Camera
from iccld_cli.town.ground import GROUND_LABELS, GroundHit
from iccld_cli.town.materials import SIZE
from iccld_cli.town.mesh import Mesh

GROUND, HILLS, SKY = -1, -2, -3
"""Face numbers of samples that see no face."""

HILL_LABEL, SKY_LABEL = 8, 10

GAPS = {8: 0.45, 18: 0.25}
"""Widest gap, in metres, between parts of plants and of bicycles that is labelled as they are."""

REACHES = (1, 2, 3, 4, 6, 8, 11, 16)
"""Pixels that a gap is closed from either side; plants that touch the camera take the last."""

NEIGHBOURS = 1.2
"""How far apart, as a factor of distance, parts may lie beyond the distances of one reach and still share a gap."""

BATCH = 256
"""Cut-out faces drawn at once."""

SOLID_BATCH = 256
"""Other faces drawn at once: few enough for their fragments to stay near the processor."""


@dataclass
class Faces:
    """World faces with everything the passes look up, one row per face.

    Attributes:
        quads: Corners (F, 4, 3) float32, sprites already turned to the viewer.
        mesh: Colours, labels and the rest.
        u: Texture column as an affine form of the world position (F, 4): u = u[:3] . p + u[3].
        v: Texture row likewise (F, 4).
        density: Texels per metre (F,).
        cutout: Faces with holes (F,) bool.
    """

    quads: np.ndarray
    mesh: Mesh
    u: np.ndarray
    v: np.ndarray
    density: np.ndarray
    cutout: np.ndarray


def turn_sprites(mesh: Mesh, right: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Corners (F, 4, 3) of a mesh whose sprites lie in the plane of two world axes (3,)."""
    quads = mesh.quads.copy()
    pick = np.flatnonzero(mesh.sprites)
    if len(pick):
        centre, size, turn = quads[pick, 0], quads[pick, 1, 0] / 2, quads[pick, 1, 1]
        c, s = (np.cos(turn) * size)[:, None], (np.sin(turn) * size)[:, None]
        a = c * right + s * up
        b = c * up - s * right
        quads[pick] = np.stack([centre - a + b, centre + a + b, centre + a - b, centre - a - b], 1)
    return quads.astype(np.float32)


def prepare(mesh: Mesh, quads: np.ndarray) -> Faces:
    """Adds texture mapping to faces whose corners are final."""
    origin = quads[:, 0].astype(np.float64)
    e1, e3 = quads[:, 1] - origin, quads[:, 3] - origin
    g11, g33, g13 = (e1 * e1).sum(1), (e3 * e3).sum(1), (e1 * e3).sum(1)
    det = np.maximum(g11 * g33 - g13 * g13, 1e-10)
    du = (e1 * g33[:, None] - e3 * g13[:, None]) * (mesh.reps[:, 0] / det)[:, None]
    dv = (e3 * g11[:, None] - e1 * g13[:, None]) * (mesh.reps[:, 1] / det)[:, None]
    u = np.concatenate([du, -(du * origin).sum(1)[:, None]], 1)
    v = np.concatenate([dv, -(dv * origin).sum(1)[:, None]], 1)
    density = SIZE * np.sqrt(np.maximum((du * du).sum(1), (dv * dv).sum(1)))
    return Faces(quads, mesh, u, v, density.astype(np.float32), CUTOUT[mesh.tiles])


@dataclass
class GBuffer:
    """What every sample sees.

    Attributes:
        camera: The camera.
        ids: Face number, or GROUND, HILLS, SKY (S,) int32.
        depth: Inverse depth (S,) float32, 0 for the backdrop.
        rays: World direction per unit of depth (S, 3) float32.
        ground: Ground hit of every sample.
        faces: The faces.
        table: Texture mapping of the faces from this camera, see screen_texture.
        veil: Inverse depth (P,) float32 of the nearest hole in front of what every pixel's centre sees, else 0.
        veil_ids: Face (P,) int32 that has the hole; meaningless where there is none.
    """

    camera: Camera
    ids: np.ndarray
    depth: np.ndarray
    rays: np.ndarray
    ground: GroundHit
    faces: Faces
    table: np.ndarray
    veil: np.ndarray
    veil_ids: np.ndarray

    def grid(self, flat: np.ndarray) -> np.ndarray:
        """A flat per-sample array as (rows, columns)."""
        w, h = self.camera.samples
        return flat.reshape(h, w)

    def label(self) -> np.ndarray:
        """trainIds (H, W) uint8 of the pixel centres, holes belonging to the object that has them."""
        ids = self.grid(self.ids)[::SUPER, ::SUPER]
        kind = self.grid(self.ground.kind)[::SUPER, ::SUPER]
        depth = self.grid(self.depth)[::SUPER, ::SUPER]
        veil = self.veil.reshape(ids.shape)
        # What was drawn after a hole may lie before it.
        before = veil > depth
        ids, depth = np.where(before, self.veil_ids.reshape(ids.shape), ids), np.where(before, veil, depth)
        out = np.full(ids.shape, SKY_LABEL, np.uint8)
        out[ids == HILLS] = HILL_LABEL
        road = ids == GROUND
        out[road] = GROUND_LABELS[kind[road]]
        face = ids >= 0
        out[face] = self.faces.mesh.labels[ids[face]]
        for label, gap in GAPS.items():
            out[close_gaps(np.where(face & (out == label), depth, 0), depth, gap / 2 * self.camera.focal)] = label
        return out


def close_gaps(near: np.ndarray, depth: np.ndarray, reach: float) -> np.ndarray:
    """Pixels seen through narrow gaps of an object.

    Args:
        near: Inverse depth (H, W) float32 of the object, 0 where it is not seen.
        depth: Inverse depth (H, W) float32 of what is seen, 0 for the backdrop.
        reach: Half the widest gap, in pixels at a distance of one metre.

    Returns:
        Mask (H, W) of the pixels between parts of the object that show something behind them.
    """
    hit = np.zeros(near.shape, bool)
    for size, following in zip(REACHES, (*REACHES[1:], np.inf), strict=True):
        # Parts at the distances at which half a gap spans this many pixels.
        part = np.where((near > size / reach / NEIGHBOURS) & (near < following / reach * NEIGHBOURS), near, 0)
        rows, columns = (np.flatnonzero(part.any(axis)) for axis in (1, 0))
        if len(rows):
            margin = 2 * size + 1
            box = (
                slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
                slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
            )
            hit[box] |= _closed(part[box], size) > depth[box]
    return hit & (near == 0)


def _closed(picture: np.ndarray, size: int) -> np.ndarray:
    """Grey closing by an octagon that reaches ``size`` pixels: the surroundings' depth inside narrow gaps."""
    square, cross = (cv2.getStructuringElement(shape, (3, 3)) for shape in (cv2.MORPH_RECT, cv2.MORPH_CROSS))
    # What the edge of the picture cuts off goes on beyond it; left out, the edge would count as part of the object.
    picture = cv2.copyMakeBorder(picture, size, size, size, size, cv2.BORDER_REPLICATE)
    for step in (cv2.dilate, cv2.erode):
        # OpenCV is fast with kernels of three pixels and with squares.
        picture = step(picture, cross, iterations=size - size // 2)
        picture = step(picture, square, iterations=size // 2) if size > 1 else picture
    return picture[size:-size, size:-size]


def draw(camera: Camera, faces: Faces, atlas: Atlas, ground: GroundHit, rays: np.ndarray) -> GBuffer:
    """Draws faces over the ground; what is left is sky.

    Args:
        camera: The camera.
        faces: World faces.
        atlas: Texture tiles, for the holes of fences and leaves.
        ground: Ground hit of every sample.
        rays: World direction per unit of depth (S, 3).

    Returns:
        The filled buffer.
    """
    width, height = camera.samples
    focal, (cx, cy) = camera.sample_focal, camera.sample_centre
    zbuf = ground.depth.copy()
    ids = np.full(len(zbuf), SKY, np.int32)
    ids[zbuf > 0] = GROUND
    points, seen = _in_view(camera, faces)
    setup = raster.perspective(points, focal, cx, cy, height)
    drawn = setup.rows[:, 1] >= setup.rows[:, 0]
    table = screen_texture(faces, camera)
    solid = np.flatnonzero(drawn & ~faces.cutout[seen])
    for start in range(0, len(solid), SOLID_BATCH):
        index, depth, owner = raster.fragments(setup, solid[start : start + SOLID_BATCH], width)
        raster.resolve(zbuf, ids, index, depth, seen.take(owner))
    veil = np.zeros(len(zbuf) // SUPER**2, np.float32)
    veil_ids = np.zeros(len(veil), np.int32)
    holes = np.flatnonzero(drawn & faces.cutout[seen])
    # Near leaves first: most of what lies behind is then dropped before its holes are looked up.
    nearest, _ = raster.span_of(np.maximum(points[holes, :, 2], 1e-3))
    holes = holes[np.argsort(nearest, kind="stable")]
    for start in range(0, len(holes), BATCH):
        index, depth, owner = raster.fragments(setup, holes[start : start + BATCH], width)
        ahead = np.flatnonzero(depth > zbuf.take(index))
        index, depth, owner = index.take(ahead), depth.take(ahead), seen.take(owner.take(ahead))
        texel = _texel(faces, atlas, camera, table, index, depth, owner)
        solid = atlas.cutout.take(texel)
        keep = np.flatnonzero(solid)
        raster.resolve(zbuf, ids, index.take(keep), depth.take(keep), owner.take(keep))
        hole = np.flatnonzero(atlas.outline.take(texel) > solid)
        row, column = np.divmod(index.take(hole), width)
        centre = np.flatnonzero((row | column) % SUPER == 0)
        hole, pixel = hole.take(centre), (row.take(centre) * (width // SUPER) + column.take(centre)) // SUPER
        raster.resolve(veil, veil_ids, pixel, depth.take(hole), owner.take(hole))
    return GBuffer(camera, ids, zbuf, rays, ground, faces, table, veil, veil_ids)


def _in_view(camera: Camera, faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Corners (V, 4, 3) in camera axes, and numbers (V,) int32, of the faces that look this way and are not beside."""
    away = camera.position.astype(np.float32) - faces.quads[:, 0]
    facing = np.einsum("fk,fk->f", away, faces.mesh.normals)
    # Leaves on the far side of a crown are hidden by those in front; the few that would show through are not missed.
    limit = np.where(faces.mesh.sprites, -0.4 * np.sqrt(np.einsum("fk,fk->f", away, away)), 0)
    seen = np.flatnonzero(facing > limit).astype(np.int32)
    points = camera.to_camera(faces.quads.take(seen, axis=0))
    nearest, farthest = raster.span_of(points[..., 2])
    left, right = raster.span_of(
        camera.sample_focal * points[..., 0] / np.maximum(points[..., 2], 1e-3) + camera.sample_centre[0]
    )
    beside = (nearest >= raster.NEAR) & ((right < 0) | (left > camera.samples[0] - 1))
    keep = np.flatnonzero(~beside & (farthest >= raster.NEAR))
    return points.take(keep, axis=0), seen.take(keep)


def _texel(
    faces: Faces,
    atlas: Atlas,
    camera: Camera,
    table: np.ndarray,
    index: np.ndarray,
    depth: np.ndarray,
    owner: np.ndarray,
) -> np.ndarray:
    """Where in the atlas's masks fragments of cut-out faces find whether they hit matter or a hole."""
    z = 1 / depth
    u, v = texture_at(table, owner, index, z, camera.samples[0])
    lod = np.log2(np.maximum(faces.density[owner] * z / np.float32(camera.sample_focal), 1))
    lod = np.minimum(lod + np.float32(0.5), LEVELS - 1).astype(np.int32)
    return atlas.texel(faces.mesh.tiles[owner], u, v, lod)


def screen_texture(faces: Faces, camera: Camera) -> np.ndarray:
    """Texture positions as forms of the screen: u = t0 + z * (t1 x + t2 y + t3), likewise v in t4..t7; (8, F)."""
    cx, cy = camera.sample_centre
    out = np.empty((8, len(faces.u)), np.float32)
    for row, form in ((0, faces.u), (4, faces.v)):
        local = form[:, :3] @ camera.rotation.T
        local[:, :2] /= camera.sample_focal
        out[row] = form[:, 3] + form[:, :3] @ camera.position
        out[row + 1], out[row + 2] = local[:, 0], local[:, 1]
        out[row + 3] = local[:, 2] - local[:, 0] * cx - local[:, 1] * cy
    return out


def texture_at(
    table: np.ndarray, owner: np.ndarray, index: np.ndarray, z: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texture position (u, v) of samples ``index`` at depth ``z`` (N,) on faces ``owner``; table by screen_texture."""
    y, x = np.divmod(index.astype(np.int32), np.int32(width))
    x, y = x.astype(np.float32), y.astype(np.float32)
    t = [row.take(owner) for row in table]
    return t[0] + z * (t[1] * x + t[2] * y + t[3]), t[4] + z * (t[5] * x + t[6] * y + t[7])
