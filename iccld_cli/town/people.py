"""Pedestrians and riders built from tapered limbs.

People face +z and stand on y = 0.  Palette slots: 0 top, 1 trousers, 2 skin, 3 hair or helmet, 4 shoes, 5 bag.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from iccld_cli.town.atlas import TILES
from iccld_cli.town.mesh import Builder, Look, Mesh, vec

PERSON, RIDER = 11, 12
PHASES = 10
"""Stored poses of one stride."""

TOP, LEGS, SKIN, HAIR, SHOES, BAG = range(6)


def _torso(b: Builder, label: int, hip: np.ndarray, neck: np.ndarray, wide: float, coat: float) -> None:
    """Loft from the hip (or the hem of a coat) to the neck; cross-sections lie level."""
    angle = 2 * np.pi * (np.arange(8) + 0.5) / 8
    levels = [(-coat, 0.95 + 0.5 * coat), (0.0, 1.0), (0.35, 0.9), (0.75, 1.14), (0.93, 1.0), (1.02, 0.4)]
    rings = []
    for t, scale in levels:
        mid = hip + t * (neck - hip)
        r = np.stack([wide * scale * np.cos(angle), np.zeros(8), 0.62 * wide * scale * np.sin(angle)], -1)
        rings.append(mid + r)
    b.loft(np.array(rings), Look(label, slot=TOP), "az")


def _head(b: Builder, label: int, neck: np.ndarray, lean: float, helmet: bool) -> None:
    centre = neck + vec(0, 0.17, 0.03 + lean)
    skin, hair = Look(label, slot=SKIN), Look(label, slot=HAIR)
    b.tube(neck - vec(0, 0.03, 0), centre, 0.055, 0.055, skin, 6)
    b.blob(centre, (0.085, 0.125, 0.1), skin, 8, 5)
    grow = 1.35 if helmet else 1.1
    b.blob(centre + vec(0, 0.045, -0.025), (0.085 * grow, 0.1 * grow, 0.095 * grow), hair, 8, 5)


def _limb(b: Builder, looks: tuple[Look, Look], joints: tuple, radii: tuple[float, float, float]) -> None:
    """Two tapered segments, joint to joint."""
    b.tube(joints[0], joints[1], radii[0], radii[1], looks[0], 6, "a")
    b.tube(joints[1], joints[2], radii[1], radii[2], looks[1], 6, "z")


@lru_cache(maxsize=64)
def pedestrian(phase: int, style: int) -> Mesh:
    """A person of 1.72 m, walking.

    Args:
        phase: Pose 0..PHASES-1 of the stride; PHASES stands still.
        style: 0 jacket, 1 short sleeves, 2 long coat, 3 skirt, 4 backpack, 5 shopping bag.

    Returns:
        Mesh labelled person.
    """
    b = Builder(TILES)
    swing = 0.0 if phase == PHASES else np.sin(2 * np.pi * phase / PHASES)
    lift = 0.0 if phase == PHASES else np.cos(2 * np.pi * phase / PHASES)
    hip, neck = np.array([0, 0.92, 0.0]), np.array([0, 1.46, 0.03])
    top, legs, skin = (Look(PERSON, slot=s) for s in (TOP, LEGS, SKIN))
    for side in (-1, 1):
        a = 0.48 * side * swing
        bend = 0.15 + 0.75 * max(0.0, side * lift) if phase != PHASES else 0.02
        joint = hip + vec(0.09 * side, -0.02, 0)
        knee = joint + 0.42 * np.array([0, -np.cos(a), np.sin(a)])
        ankle = knee + 0.42 * np.array([0, -np.cos(a - bend), np.sin(a - bend)])
        lower = skin if style == 3 else legs
        _limb(b, (legs, lower), (joint, knee, ankle), (0.095, 0.065, 0.048))
        b.box(ankle + vec(0, -0.035, 0.06), (0.09, 0.08, 0.25), Look(PERSON, slot=SHOES), skip="")
        shoulder = neck + vec(0.19 * side, -0.07, -0.01)
        elbow = shoulder + 0.29 * np.array([0.12 * side, -np.cos(-a * 0.8), np.sin(-a * 0.8)])
        hand = elbow + 0.27 * np.array([0.02 * side, -np.cos(-a * 0.8 + 0.3), np.sin(-a * 0.8 + 0.3)])
        _limb(b, (top, skin if style == 1 else top), (shoulder, elbow, hand), (0.062, 0.048, 0.038))
        b.blob(hand, (0.045, 0.06, 0.045), skin, 5, 3)
        if style == 5 and side > 0:
            b.box(hand + vec(0, -0.22, 0), (0.1, 0.34, 0.3), Look(PERSON, slot=BAG), skip="")
    _torso(b, PERSON, hip, neck, 0.165, {2: 0.75, 3: 0.0}.get(style, 0.12))
    if style == 3:
        angle = 2 * np.pi * np.arange(8) / 8
        rings = [
            np.stack([r * np.cos(angle), np.full(8, y), 0.75 * r * np.sin(angle)], -1)
            for y, r in ((0.5, 0.25), (0.97, 0.16))
        ]
        b.loft(np.array(rings), legs, "a")
    if style == 4:
        b.blob((0, 1.22, -0.19), (0.16, 0.24, 0.12), Look(PERSON, slot=BAG), 6, 4)
    _head(b, PERSON, neck, 0.0, False)
    return b.build()


@lru_cache(maxsize=16)
def rider(kind: str, phase: int) -> Mesh:
    """A rider seated on a two-wheeler at the origin.

    Args:
        kind: "bicycle" or "motorcycle".
        phase: Pedal pose 0..PHASES-1; ignored for the motorcycle.

    Returns:
        Mesh labelled rider.
    """
    b = Builder(TILES)
    bike = kind == "bicycle"
    hip = np.array([0, 0.98, -0.24]) if bike else np.array([0, 0.86, -0.3])
    neck = hip + (vec(0, 0.5, 0.26) if bike else vec(0, 0.54, 0.16))
    grip_z, grip_y, grip_x = (0.32, 1.02, 0.26) if bike else (0.32, 1.02, 0.34)
    top, legs = (Look(RIDER, slot=s) for s in (TOP, LEGS))
    for side in (-1, 1):
        a = 2 * np.pi * phase / PHASES + (np.pi if side > 0 else 0)
        pedal = np.array([0.12 * side, 0.3 + 0.17 * np.cos(a), -0.08 + 0.17 * np.sin(a)])
        foot = pedal if bike else np.array([0.2 * side, 0.32, 0.02])
        joint = hip + vec(0.1 * side, 0, 0.02)
        knee = (joint + foot) / 2 + np.array([0.06 * side, 0.1, 0.27 if bike else 0.3])
        _limb(b, (legs, legs), (joint, knee, foot + vec(0, 0.06, 0)), (0.095, 0.068, 0.05))
        b.box(foot + vec(0, 0.02, 0.06), (0.09, 0.08, 0.26), Look(RIDER, slot=SHOES), skip="")
        shoulder = neck + vec(0.19 * side, -0.06, 0)
        grip = np.array([grip_x * side, grip_y, grip_z])
        elbow = (shoulder + grip) / 2 + vec(0.1 * side, -0.08, -0.05)
        _limb(b, (top, top), (shoulder, elbow, grip), (0.062, 0.05, 0.042))
    _torso(b, RIDER, hip, neck, 0.17, 0.12)
    _head(b, RIDER, neck, 0.05, True)
    return b.build()
