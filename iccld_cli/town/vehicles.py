"""Cars, vans, trucks, buses, motorcycles and bicycles as low-poly meshes.

Vehicles point along +z and stand on y = 0, with the origin under their middle.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from iccld_cli.town.atlas import TILES
from iccld_cli.town.mesh import Builder, Look, Mesh

CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE = 13, 14, 15, 17, 18
PAINT = 0
"""Palette slot of the body paint."""

RUBBER = (0.035, 0.035, 0.038)
TRIM = (0.05, 0.05, 0.055)
CHROME = (0.55, 0.56, 0.58)

# name: length, width, ground clearance, bonnet height, belt height, roof height, and z (share of the length, front
# positive) of windscreen foot, windscreen top, rear window top, rear window foot.
CARS = {
    "sedan": (4.6, 1.8, 0.2, 0.78, 0.92, 1.44, (0.2, 0.04, -0.24, -0.38)),
    "hatch": (3.9, 1.74, 0.2, 0.84, 0.96, 1.5, (0.24, 0.08, -0.38, -0.47)),
    "suv": (4.6, 1.9, 0.26, 1.0, 1.12, 1.72, (0.22, 0.1, -0.42, -0.48)),
    "wagon": (4.7, 1.82, 0.2, 0.8, 0.95, 1.48, (0.2, 0.05, -0.42, -0.49)),
    "coupe": (4.4, 1.84, 0.17, 0.74, 0.88, 1.32, (0.14, -0.02, -0.2, -0.42)),
    "van": (5.0, 1.95, 0.24, 1.1, 1.25, 2.1, (0.4, 0.26, -0.47, -0.49)),
}


def _wheels(b: Builder, label: int, half: float, radius: float, at: tuple[float, ...], width: float = 0.22) -> None:
    rim = Look(label, tile="wheel")
    for z in at:
        for side in (-1, 1):
            x = side * half
            b.tube((x - side * width, radius, z), (x, radius, z), radius, radius, Look(label, RUBBER), 12, "az")
            r, xo = 0.68 * radius, x + side * 0.012
            quad = [(xo, radius + r, z - r), (xo, radius + r, z + r), (xo, radius - r, z + r), (xo, radius - r, z - r)]
            b.faces(np.array([quad]), rim, normals=np.array([[side, 0.0, 0.0]]))


def _arches(b: Builder, label: int, half: float, radius: float, at: tuple[float, ...], clearance: float) -> None:
    """Dark wheel housings drawn just outside the body side."""
    angle = np.linspace(-0.15, np.pi + 0.15, 9)
    for z in at:
        for side in (-1, 1):
            ring = np.stack(
                [
                    np.full(9, side * (half + 0.006)),
                    radius + 1.17 * radius * np.sin(angle),
                    z + 1.17 * radius * np.cos(angle),
                ],
                -1,
            )
            ring[:, 1] = np.maximum(ring[:, 1], clearance)
            b.polygon(ring, Look(label, TRIM), (0.0, radius, z))


def _section(z: float, half: float, low: float, high: float, tuck: float = 0.9) -> list[tuple[float, float, float]]:
    """Cross-section of a body at ``z``: sill, widest line and shoulder, mirrored."""
    mid = low + 0.55 * (high - low)
    right = [(half * tuck, low, z), (half, low + 0.25 * (mid - low), z), (half, mid, z), (half * 0.93, high, z)]
    return right + [(-x, y, zz) for x, y, zz in right[::-1]]


@lru_cache(maxsize=16)
def car(kind: str) -> Mesh:
    """A passenger car.

    Args:
        kind: A key of CARS.

    Returns:
        Mesh with the paint in palette slot 0.
    """
    length, width, low, bonnet, belt, roof, (ws0, ws1, rw1, rw0) = CARS[kind]
    b = Builder(TILES)
    paint = Look(CAR, slot=PAINT, gloss=0.16)
    half = width / 2
    zs = [0.5, 0.485, 0.4, ws0, -0.02, rw0, -0.485, -0.5]
    tail = belt if rw0 < -0.44 else belt - 0.03
    tops = [bonnet - 0.22, bonnet - 0.08, bonnet - 0.01, belt, belt, belt, tail - 0.02, tail - 0.18]
    wide = [0.86, 0.94, 0.99, 1.0, 1.0, 1.0, 0.95, 0.88]
    order = np.argsort(zs)
    rings = [_section(zs[i] * length, half * wide[i], low + (0.06 if wide[i] < 0.9 else 0), tops[i]) for i in order]
    b.loft(np.array(rings), paint, "az")
    _cabin(b, length, half * 0.93, belt, roof, (ws0, ws1, rw1, rw0), kind)
    front, rear = 0.32 * length, -0.3 * length
    radius = 0.31 if low < 0.24 else 0.36
    _arches(b, CAR, half, radius, (front, rear), low)
    _wheels(b, CAR, half + 0.015, radius, (front, rear))
    _car_details(b, length, half, low, bonnet, belt, ws0)
    return b.build()


def _cabin(b: Builder, length: float, half: float, belt: float, roof: float, zs: tuple, kind: str) -> None:
    ws0, ws1, rw1, rw0 = (z * length for z in zs)
    top = half * 0.8
    paint = Look(CAR, slot=PAINT, gloss=0.16)
    screen = Look(CAR, slot=PAINT, tile="glass_screen", gloss=0.1)
    inside = (0.0, belt, (ws1 + rw1) / 2)
    roof_y = roof - 0.03
    edge = np.array([(top, roof_y, ws1), (-top, roof_y, ws1), (-top, roof_y, rw1), (top, roof_y, rw1)])
    crown = edge * (0.8, 1, 0.9) + (0, 0.04, 0.1 * (ws1 + rw1) / 2)
    b.faces(crown[None], paint, inside)
    for k in range(4):
        n = (k + 1) % 4
        b.faces(np.array([[crown[k], crown[n], edge[n], edge[k]]]), paint, inside)
    b.faces([[edge[0], edge[1], (-half, belt, ws0), (half, belt, ws0)]], screen, inside)
    b.faces([[edge[3], edge[2], (-half, belt, rw0), (half, belt, rw0)]], screen, inside)
    mid = (ws1 + rw1) / 2 if kind != "van" else ws1 - 0.9
    mid_foot = (ws0 + rw0) / 2 if kind != "van" else ws1 - 0.9
    for s in (1, -1):
        split_t, split_b = (s * top, roof_y, mid), (s * half, belt, mid_foot)
        fore = [(s * top, roof_y, ws1), split_t, split_b, (s * half, belt, ws0)]
        aft = [split_t, (s * top, roof_y, rw1), (s * half, belt, rw0), split_b]
        glass = Look(CAR, slot=PAINT, tile="glass_side1", gloss=0.1)
        b.faces([fore], glass, inside)
        b.faces([aft], paint if kind == "van" else glass, inside)


def _car_details(b: Builder, length: float, half: float, low: float, bonnet: float, belt: float, ws0: float) -> None:
    z = length / 2
    for s in (-1, 1):
        lamp_y = bonnet - 0.16
        b.box((s * half * 0.7, lamp_y, z - 0.05), (half * 0.36, 0.13, 0.14), Look(CAR, (0.85, 0.87, 0.9), glow=0.6))
        b.box(
            (s * half * 0.76, belt - 0.14, -z + 0.05), (half * 0.3, 0.15, 0.14), Look(CAR, (0.7, 0.02, 0.02), glow=0.7)
        )
        b.box((s * (half + 0.08), belt + 0.06, ws0 * length - 0.25), (0.16, 0.12, 0.1), Look(CAR, slot=PAINT))
    b.box((0, low + 0.14, z - 0.02), (half * 1.6, 0.16, 0.1), Look(CAR, TRIM))
    b.box((0, bonnet - 0.17, z - 0.03), (half * 0.9, 0.1, 0.08), Look(CAR, TRIM, gloss=0.1))
    b.box((0, low + 0.1, -z + 0.02), (half * 1.7, 0.14, 0.1), Look(CAR, TRIM))
    for end in (1, -1):
        b.box((0, low + (0.2 if end > 0 else 0.36), end * (z + 0.035)), (0.5, 0.11, 0.02), Look(CAR, (0.85, 0.85, 0.8)))
    for s in (-1, 1):
        b.box((s * half * 0.97, low + 0.03, 0), (0.08, 0.1, length * 0.4), Look(CAR, TRIM))
        for seam in (0.19, -0.02, -0.21):
            at = (s * half * 0.985, (low + belt) / 2 + 0.06, seam * length)
            b.box(at, (half * 0.045, (belt - low) * 0.72, 0.025), Look(CAR, TRIM), skip="tdfb")
        for handle in (0.03, -0.17):
            b.box((s * half * 0.985, belt - 0.13, handle * length), (0.07, 0.035, 0.2), Look(CAR, CHROME, gloss=0.2))


@lru_cache(maxsize=8)
def truck(kind: int) -> Mesh:
    """A lorry: 0 box body, 1 long box body, 2 tipper; paint of the cab in slot 0, of the body in slot 1."""
    b = Builder(TILES)
    length = (7.2, 9.6, 6.8)[kind]
    half, z = 1.2, length / 2
    cab = Look(TRUCK, slot=0, gloss=0.1)
    front = Look(TRUCK, slot=0, tile="glass_screen", gloss=0.1)
    side = Look(TRUCK, slot=0, tile="glass_side1", gloss=0.1)
    b.box((0, 1.0, z - 0.85), (2.3, 0.9, 1.7), cab)
    b.box((0, 2.05, z - 0.95), (2.26, 1.25, 1.5), cab, f=front, l=side, r=side)
    b.box((0, 0.75, z + 0.02), (2.3, 0.35, 0.1), Look(TRUCK, TRIM))
    b.box((0, 1.2, z + 0.01), (1.5, 0.3, 0.06), Look(TRUCK, TRIM))
    b.box((0, 0.8, -0.4), (0.9, 0.3, length - 1.2), Look(TRUCK, TRIM), skip="t")
    body_len = length - 2.0
    if kind < 2:
        wall = Look(TRUCK, slot=1, tile="cargo")
        plain = Look(TRUCK, slot=1, tile="metal")
        b.box((0, 2.3, -0.98), (2.44, 2.6, body_len), plain, skip="", metre=None, l=wall, r=wall)
    else:
        b.box((0, 1.7, -0.98), (2.4, 1.3, body_len), Look(TRUCK, slot=1, tile="metal"), skip="")
        b.box((0, 2.4, -0.98), (2.0, 0.3, body_len - 0.5), Look(TRUCK, (0.25, 0.2, 0.14), tile="dirt"), metre=1.5)
    for s in (-1, 1):
        b.box((s * 0.85, 0.85, z + 0.04), (0.35, 0.2, 0.08), Look(TRUCK, (0.85, 0.87, 0.9), glow=0.6))
        b.box((s * 0.9, 0.85, -z + 0.02), (0.4, 0.16, 0.1), Look(TRUCK, (0.7, 0.02, 0.02), glow=0.7))
        b.box((s * 1.32, 2.1, z - 0.3), (0.18, 0.5, 0.14), Look(TRUCK, TRIM))
    axles = (z - 1.1, -z + 1.3) if kind != 1 else (z - 1.1, -z + 1.2, -z + 2.3)
    _wheels(b, TRUCK, half - 0.02, 0.5, axles, 0.34)
    return b.build()


@lru_cache(maxsize=4)
def bus(kind: int) -> Mesh:
    """A bus: 0 city, 1 longer, 2 with two decks, 3 coach; body paint in slot 0, skirt stripe in slot 1."""
    b = Builder(TILES)
    length, half, top = (11.0, 13.0, 10.4, 12.0)[kind], 1.27, (3.05, 3.05, 4.3, 3.4)[kind]
    z, decks = length / 2, 2 if kind == 2 else 1
    side = Look(BUS, slot=0, tile="glass_bus", gloss=0.1)
    paint = Look(BUS, slot=0, gloss=0.12)
    bays, high = (length / (1.7 if kind < 3 else 3.0), 1.0), (top - 0.85) / decks
    for deck in range(decks):
        y0 = 0.85 + deck * high
        y1 = y0 + high
        for s in (-1, 1):
            quad = [(s * half, y1, s * -z), (s * half, y1, s * z), (s * half, y0, s * z), (s * half, y0, s * -z)]
            b.faces([quad], side, (0, 1.5, 0), reps=bays)
        glass = Look(BUS, slot=0, tile="glass_screen", gloss=0.1)
        sill, head = (y0 + 0.3, y1 - 0.35) if decks == 1 else (y0 + 0.35, y1 - 0.25)
        for end in (1, -1):
            ez = end * z
            # The back of a bus has a small window over the engine, or a large one.
            low = sill + (0.45 * (head - sill) if end < 0 and (kind == 3 or deck < decks - 1) else 0)
            quad = [(end * half, head, ez), (-end * half, head, ez), (-end * half, low, ez), (end * half, low, ez)]
            b.faces([quad], glass, (0, 1.5, 0))
            b.box((0, (y0 + low) / 2 - 0.09, ez - end * 0.04), (half * 2, low - y0 + 0.18, 0.1), paint)
            b.box((0, (head + y1) / 2, ez - end * 0.04), (half * 2, y1 - head + 0.02, 0.1), paint)
    for s in (-1, 1):
        b.box((s * (half - 0.02), 0.6, 0), (0.05, 0.52, length - 0.1), Look(BUS, slot=1))
    for end in (1, -1):
        b.box((0, 0.6, end * (z - 0.03)), (half * 2, 0.52, 0.1), Look(BUS, slot=1))
    b.box((0, min(top - 0.17, 2.88), z + 0.02), (1.6, 0.24, 0.05), Look(BUS, (0.95, 0.6, 0.1), glow=0.5))
    b.box((0, 1.05, -z - 0.01), (1.3, 0.4, 0.04), Look(BUS, TRIM))  # the engine's vent
    b.box((0.5, 0.62, -z - 0.02), (0.5, 0.12, 0.03), Look(BUS, (0.85, 0.85, 0.8)))
    b.faces([[(half, top, z), (-half, top, z), (-half, top, -z), (half, top, -z)]], paint, (0, 1, 0))
    b.box((0, top + 0.12, -1), (1.7, 0.24, 3.5), paint)
    for s in (-1, 1):
        b.box((s * 0.95, 0.68, z + 0.02), (0.4, 0.18, 0.06), Look(BUS, (0.85, 0.87, 0.9), glow=0.6))
        b.box((s * 1.0, 0.95, -z - 0.02), (0.25, 0.4, 0.06), Look(BUS, (0.7, 0.02, 0.02), glow=0.7))
        b.box((s * 1.42, 2.3, z + 0.05), (0.2, 0.45, 0.2), Look(BUS, TRIM))
    _arches(b, BUS, half, 0.48, (z - 2.5, -z + 3.0), 0.3)
    _wheels(b, BUS, half + 0.01, 0.48, (z - 2.5, -z + 3.0), 0.3)
    return b.build()


@lru_cache(maxsize=4)
def motorcycle(kind: int) -> Mesh:
    """A motorcycle (0) or scooter (1), paint in slot 0."""
    b = Builder(TILES)
    dark, paint = Look(MOTORCYCLE, TRIM, gloss=0.1), Look(MOTORCYCLE, slot=0, gloss=0.15)
    radius, wheelbase = ((0.32, 1.42), (0.25, 1.25))[kind]
    f, r = wheelbase / 2, -wheelbase / 2
    for z in (f, r):
        b.tube((-0.06, radius, z), (0.06, radius, z), radius, radius, Look(MOTORCYCLE, RUBBER), 12, "az")
        for s in (-1, 1):
            b.tube(
                (s * 0.06, radius, z),
                (s * 0.075, radius, z),
                radius * 0.6,
                radius * 0.55,
                Look(MOTORCYCLE, CHROME),
                8,
                "az",
            )
    for s in (-1, 1):
        b.tube((s * 0.1, radius, f), (s * 0.1, 0.95, f - 0.3), 0.035, 0.035, Look(MOTORCYCLE, CHROME), 5)
        b.tube((s * 0.15, 0.35, r - 0.25), (s * 0.15, 0.38, 0.1), 0.06, 0.04, Look(MOTORCYCLE, CHROME), 6, "a")
    b.tube((-0.36, 1.02, f - 0.38), (0.36, 1.02, f - 0.38), 0.025, 0.025, dark, 5, "az")
    b.blob((0, 0.45, 0.02), (0.17, 0.22, 0.34), dark)
    if kind == 0:
        b.blob((0, 0.78, 0.18), (0.17, 0.16, 0.32), paint)
        b.box((0, 0.78, -0.38), (0.26, 0.1, 0.6), dark)
        b.box((0, 0.8, r - 0.08), (0.2, 0.14, 0.32), paint)
    else:
        b.box((0, 0.62, f - 0.25), (0.4, 0.7, 0.08), paint)
        b.box((0, 0.3, 0.05), (0.34, 0.08, 0.6), dark)
        b.blob((0, 0.52, -0.38), (0.19, 0.22, 0.42), paint)
        b.box((0, 0.76, -0.38), (0.28, 0.09, 0.62), dark)
    b.blob((0, 0.9, f - 0.18), (0.1, 0.11, 0.09), Look(MOTORCYCLE, (0.9, 0.9, 0.85), glow=0.5))
    b.box((0, 0.7, r - 0.27), (0.14, 0.08, 0.05), Look(MOTORCYCLE, (0.7, 0.02, 0.02), glow=0.7))
    b.box((0, 0.5, r - 0.3), (0.18, 0.14, 0.02), Look(MOTORCYCLE, (0.8, 0.8, 0.75)))
    return b.build()


@lru_cache(maxsize=2)
def bicycle() -> Mesh:
    """A bicycle, frame paint in slot 0."""
    b = Builder(TILES)
    frame, dark = Look(BICYCLE, slot=0, gloss=0.1), Look(BICYCLE, TRIM)
    radius, f, r = 0.34, 0.52, -0.52
    for z in (f, r):
        for x in (-0.022, 0.022):
            e = radius / 0.98
            quad = [(x, radius + e, z - e), (x, radius + e, z + e), (x, radius - e, z + e), (x, radius - e, z - e)]
            b.faces([quad], Look(BICYCLE, tile="spokes"), normals=np.array([[np.sign(x), 0.0, 0.0]]))
        angle = 2 * np.pi * np.arange(12) / 12
        ring = np.stack([np.zeros(12), radius + radius * np.sin(angle), z + radius * np.cos(angle)], -1)
        wide = np.array([0.028, 0, 0])
        b.loft(np.stack([ring - wide, ring + wide]), Look(BICYCLE, RUBBER))
    joints = {"hub": (0, radius, r), "bb": (0, 0.3, -0.08), "seat": (0, 0.85, -0.22), "head": (0, 0.86, 0.34)}
    for a, c in (("bb", "seat"), ("bb", "head"), ("seat", "head"), ("hub", "bb"), ("hub", "seat")):
        b.tube(joints[a], joints[c], 0.026, 0.026, frame, 5)
    b.tube((0, radius, f), (0, 1.0, 0.3), 0.026, 0.026, frame, 5)
    b.tube((-0.28, 1.02, 0.32), (0.28, 1.02, 0.32), 0.02, 0.02, dark, 5, "az")
    b.box((0, 0.93, -0.24), (0.16, 0.07, 0.28), dark)
    return b.build()
