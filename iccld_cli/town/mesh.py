"""Meshes: quads with a colour slot, a texture tile and a label, and the shapes built from them.

Local axes are x right, y up, z forward, in metres; an object stands on y = 0.  Faces carry their outward normal
explicitly, so corner order only decides how a texture lies: corner 0 is the tile's top left, 1 its top right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FIXED = -1
"""Colour slot of faces that keep their own colour."""

Vec = Sequence[float] | np.ndarray


def vec(*values: float) -> np.ndarray:
    """A point or direction as an array, for arithmetic with other points."""
    return np.array(values, np.float64)


@dataclass
class Look:
    """How the faces of one part are painted and labelled.

    Attributes:
        label: trainId.
        color: Linear RGB in 0..1, or the neutral multiplier of a palette slot.
        slot: Index into the instance's palette, or FIXED.
        tile: Name of the texture tile.
        gloss: Mirror share of the surface in 0..1.
        glow: Emitted light as a multiple of the colour.
    """

    label: int
    color: Vec = (1.0, 1.0, 1.0)
    slot: int = FIXED
    tile: str = "plain"
    gloss: float = 0.0
    glow: float = 0.0


@dataclass
class Mesh:
    """Quads and sprites of an object, as parallel arrays.

    Attributes:
        quads: Corners (F, 4, 3) float32.  A sprite stores its centre in corner 0 and (size, turn, 0) in corner 1.
        normals: Outward unit normals (F, 3); for sprites the direction used for shading.
        colors: (F, 3) linear RGB.
        glow: (F,) emission multiple.
        gloss: (F,) mirror share.
        slots: (F,) palette slot or FIXED.
        tiles: (F,) tile numbers.
        reps: (F, 2) how often the tile repeats along the top and the left edge.
        labels: (F,) trainIds.
        sprites: (F,) bool, faces that turn towards the viewer.
    """

    quads: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    glow: np.ndarray
    gloss: np.ndarray
    slots: np.ndarray
    tiles: np.ndarray
    reps: np.ndarray
    labels: np.ndarray
    sprites: np.ndarray

    def __len__(self) -> int:
        return len(self.quads)

    def moved(self, offset: Vec = (0, 0, 0), turn: float = 0.0, scale: Vec | float = 1.0) -> Mesh:
        """Returns a copy scaled, turned about the vertical (radians, to the right) and shifted (metres)."""
        factor = np.broadcast_to(np.asarray(scale, np.float32), (3,))
        rot = heading_matrix(turn)
        quads = (self.quads * factor) @ rot.T + np.asarray(offset, np.float32)
        if self.sprites.any():
            quads[self.sprites, 1:] = self.quads[self.sprites, 1:]
            quads[self.sprites, 1, 0] *= float(factor.mean())
        normals = (self.normals / factor) @ rot.T
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        return Mesh(quads.astype(np.float32), normals.astype(np.float32), *self._tail())

    def painted(self, palette: np.ndarray) -> Mesh:
        """Returns a copy whose slots are resolved with a palette (K, 3) of linear RGB."""
        colors = self.colors.copy()
        live = self.slots >= 0
        colors[live] *= palette[np.minimum(self.slots[live], len(palette) - 1)]
        return Mesh(self.quads, self.normals, colors, *self._tail()[1:])

    def _tail(self) -> tuple[np.ndarray, ...]:
        return (
            self.colors,
            self.glow,
            self.gloss,
            self.slots,
            self.tiles,
            self.reps,
            self.labels,
            self.sprites,
        )


def heading_matrix(turn: float) -> np.ndarray:
    """Rotation (3, 3) about the vertical; a positive turn (radians) swings forward towards +x."""
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def merge(parts: Iterable[Mesh]) -> Mesh:
    """Joins meshes into one."""
    parts = list(parts)
    return Mesh(
        np.concatenate([p.quads for p in parts]),
        np.concatenate([p.normals for p in parts]),
        *(np.concatenate(cols) for cols in zip(*(p._tail() for p in parts), strict=True)),
    )


@dataclass(frozen=True)
class Placed:
    """A mesh and its position, not yet computed: `place_all` does many in one pass.

    Attributes:
        mesh: What is placed.
        offset: World position (3,), metres.
        turn: Turn about the vertical, radians to the right.
        scale: Factor, or one for each axis (3,).
        paint: Palette (K, 3) for its colour slots, or None to keep them.
    """

    mesh: Mesh
    offset: Vec
    turn: float = 0.0
    scale: Vec | float = 1.0
    paint: np.ndarray | None = None


def place_all(parts: Sequence[Placed]) -> Mesh:
    """Paints, scales, turns and shifts meshes and joins them; the same as `painted`, `moved` and `merge` one by one."""
    joined = merge(part.mesh for part in parts)
    count = [len(part.mesh) for part in parts]
    factor = np.ones((len(parts), 3), np.float32)
    for row, part in zip(factor, parts, strict=True):
        row[:] = part.scale
    turn = np.array([part.turn for part in parts])
    columns = np.column_stack([factor, np.cos(turn), np.sin(turn), np.array([part.offset for part in parts])])
    fx, fy, fz, c, s, ox, oy, oz = np.repeat(columns.astype(np.float32), count, axis=0).T
    x, y, z = (joined.quads[..., k] * f[:, None] for k, f in enumerate((fx, fy, fz)))
    quads = np.empty_like(joined.quads)
    quads[..., 0] = c[:, None] * x + s[:, None] * z + ox[:, None]
    quads[..., 1] = y + oy[:, None]
    quads[..., 2] = c[:, None] * z - s[:, None] * x + oz[:, None]
    flat = np.flatnonzero(joined.sprites)
    quads[flat, 1:] = joined.quads[flat, 1:]
    quads[flat, 1, 0] *= ((fx + fy + fz) / 3)[flat]
    nx, ny, nz = joined.normals[:, 0] / fx, joined.normals[:, 1] / fy, joined.normals[:, 2] / fz
    normals = np.stack([c * nx + s * nz, ny, c * nz - s * nx], -1)
    normals /= np.sqrt(np.einsum("nk,nk->n", normals, normals))[:, None] + np.float32(1e-9)
    palettes = [np.ones((1, 3), np.float32) if part.paint is None else part.paint for part in parts]
    first = np.cumsum([0] + [len(palette) for palette in palettes[:-1]])
    last = np.array([len(palette) - 1 for palette in palettes])
    live = np.flatnonzero(joined.slots >= 0)
    owner = np.repeat(np.arange(len(parts)), count)[live]
    colors = joined.colors.copy()
    colors[live] *= np.concatenate(palettes)[first[owner] + np.minimum(joined.slots[live], last[owner])]
    return Mesh(quads, normals, colors, *joined._tail()[1:])


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product of (F, 3) arrays; several times faster than the general one of NumPy on small inputs."""
    out = np.empty_like(a)
    out[:, 0] = a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1]
    out[:, 1] = a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2]
    out[:, 2] = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return out


def _outward(quads: np.ndarray, hints: np.ndarray) -> np.ndarray:
    """Unit normals (F, 3): the hinted ones (F, 0:3), else away from the hinted inner points (F, 3:6), else as wound."""
    normals = cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
    normals /= np.sqrt((normals * normals).sum(1, keepdims=True)) + 1e-9
    out = ((quads.mean(1) - np.nan_to_num(hints[:, 3:])) * normals).sum(1)
    normals[(out < 0) & ~np.isnan(hints[:, 3])] *= -1
    given = ~np.isnan(hints[:, 0])
    normals[given] = hints[given, :3]
    return normals


@dataclass
class Builder:
    """Collects shapes into one mesh.

    Attributes:
        tiles: Number of each texture tile name.
    """

    tiles: dict[str, int]
    _quads: list[np.ndarray] = field(default_factory=list)
    _hints: list[np.ndarray] = field(default_factory=list)
    _rows: list[tuple[int, Look, float, float, bool]] = field(default_factory=list)

    def faces(
        self,
        quads: npt.ArrayLike,
        look: Look,
        centre: Vec | np.ndarray | None = None,
        normals: np.ndarray | None = None,
        reps: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """Adds quads (F, 4, 3); normals point away from ``centre`` unless given."""
        corners = np.asarray(quads, np.float32).reshape(-1, 4, 3)
        n = len(corners)
        # Normals that have to be worked out wait for build(), where one pass does them all.
        hint = np.full((n, 6), np.nan, np.float32)
        if normals is not None:
            hint[:, :3] = normals
        elif centre is not None:
            hint[:, 3:] = centre
        self._quads.append(corners)
        self._hints.append(hint)
        self._rows.append((n, look, *reps, False))

    def sprites(
        self, centres: np.ndarray, sizes: np.ndarray, turns: np.ndarray, normals: np.ndarray, look: Look
    ) -> None:
        """Adds viewer-facing square cut-outs: centres (F, 3), sizes (F,) in metres, turns (F,) in radians."""
        quads = np.zeros((len(centres), 4, 3), np.float32)
        quads[:, 0] = centres
        quads[:, 1, 0] = sizes
        quads[:, 1, 1] = turns
        self._quads.append(quads)
        self._hints.append(np.concatenate([normals, np.zeros_like(quads[:, 0])], 1).astype(np.float32))
        self._rows.append((len(centres), look, 1.0, 1.0, True))

    def build(self) -> Mesh:
        """Returns everything added so far as one mesh."""
        n = [r[0] for r in self._rows]

        def column(values: list, dtype: type) -> np.ndarray:
            return np.repeat(np.asarray(values, dtype), n, axis=0)

        looks = [r[1] for r in self._rows]
        quads = np.concatenate(self._quads)
        return Mesh(
            quads,
            _outward(quads, np.concatenate(self._hints)),
            column([look.color for look in looks], np.float32),
            column([look.glow for look in looks], np.float32),
            column([look.gloss for look in looks], np.float32),
            column([look.slot for look in looks], np.int16),
            column([self.tiles[look.tile] for look in looks], np.int16),
            column([r[2:4] for r in self._rows], np.float32),
            column([look.label for look in looks], np.uint8),
            column([r[4] for r in self._rows], bool),
        )

    def box(
        self, centre: Vec, size: Vec, look: Look, skip: str = "d", metre: float | None = None, **sides: Look
    ) -> None:
        """Adds a box.

        Args:
            centre: Middle of the box (3,), metres.
            size: Full extents (3,), metres.
            look: Paint of every side not named in ``sides``.
            skip: Sides left out, of "f" front (+z), "b", "l", "r", "t" top, "d" down.
            metre: Edge of one texture tile in metres; the tile is stretched once over each side when None.
            **sides: Paint of single sides, by the same letters.
        """
        cx, cy, cz = centre
        hx, hy, hz = (v / 2 for v in size)
        x0, x1, y0, y1, z0, z1 = cx - hx, cx + hx, cy - hy, cy + hy, cz - hz, cz + hz
        corner = {
            "f": [(x1, y1, z1), (x0, y1, z1), (x0, y0, z1), (x1, y0, z1)],
            "b": [(x0, y1, z0), (x1, y1, z0), (x1, y0, z0), (x0, y0, z0)],
            "l": [(x0, y1, z1), (x0, y1, z0), (x0, y0, z0), (x0, y0, z1)],
            "r": [(x1, y1, z0), (x1, y1, z1), (x1, y0, z1), (x1, y0, z0)],
            "t": [(x0, y1, z1), (x1, y1, z1), (x1, y1, z0), (x0, y1, z0)],
            "d": [(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)],
        }
        extent = {"f": (0, 1), "b": (0, 1), "l": (2, 1), "r": (2, 1), "t": (0, 2), "d": (0, 2)}
        keep = [side for side in corner if side not in skip]
        if metre is None and not sides:
            self.faces(np.array([corner[side] for side in keep]), look, centre)
            return
        for side in keep:
            u, v = extent[side]
            reps = (1.0, 1.0) if metre is None else (size[u] / metre, size[v] / metre)
            self.faces(np.array(corner[side]), sides.get(side, look), centre, reps=reps)

    def loft(self, rings: np.ndarray, look: Look, caps: str = "", reps: tuple[float, float] = (1.0, 1.0)) -> None:
        """Joins rings (R, N, 3) of corners by quads; ``caps`` names closed ends, "a" first and "z" last."""
        rings = np.asarray(rings, np.float32)
        nxt = np.roll(rings, -1, axis=1)
        quads = np.stack([rings[1:], nxt[1:], nxt[:-1], rings[:-1]], 2)
        centre = (rings[1:].mean(1) + rings[:-1].mean(1)) / 2
        self.faces(quads.reshape(-1, 4, 3), look, np.repeat(centre, rings.shape[1], axis=0), reps=reps)
        middle = rings.mean((0, 1))
        for name, ring in (("a", rings[0]), ("z", rings[-1])):
            if name in caps:
                self.polygon(ring, look, middle)

    def polygon(self, ring: np.ndarray, look: Look, inside: Vec) -> None:
        """Adds a convex polygon (N, 3) as a fan facing away from ``inside``."""
        ring = np.asarray(ring, np.float32)
        n = len(ring)
        fan = [[0, k, k + 1, min(k + 2, n - 1)] for k in range(1, n - 1, 2)]
        self.faces(ring[np.array(fan)], look, inside)

    def tube(self, start: Vec, end: Vec, r0: float, r1: float, look: Look, n: int = 6, caps: str = "") -> None:
        """Adds a cylinder or cone between two points with radii ``r0`` and ``r1`` (metres) and ``n`` sides."""
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        axis = (b - a) / (np.linalg.norm(b - a) + 1e-9)
        side = np.cross(axis, (0.0, 0.0, 1.0) if abs(axis[2]) < 0.8 else (1.0, 0.0, 0.0))
        side /= np.linalg.norm(side)
        up = np.cross(axis, side)
        angle = 2 * np.pi * (np.arange(n) + 0.5) / n
        ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * up
        self.loft(np.stack([a + r0 * ring, b + r1 * ring]), look, caps)

    def blob(self, centre: Vec, radii: Vec, look: Look, n: int = 6, rings: int = 4) -> None:
        """Adds an ellipsoid with half axes ``radii`` (metres)."""
        theta = np.linspace(0.12, np.pi - 0.12, rings)
        angle = 2 * np.pi * np.arange(n) / n
        unit = np.stack(
            [
                np.sin(theta)[:, None] * np.cos(angle),
                np.cos(theta)[:, None] * np.ones(n),
                np.sin(theta)[:, None] * np.sin(angle),
            ],
            -1,
        )
        self.loft(np.asarray(centre) + unit * np.asarray(radii), look, "az")
