# SPDX-License-Identifier: Apache-2.0
"""Ribs, spine, clavicles, scapulae and the vessels of the lungs."""

from __future__ import annotations

import numpy as np

from .anatomy import Anatomy
from .canvas import Bytes, Canvas, Points, smooth


def _bone(canvas: Canvas, layer: Bytes, path: Points, width: Points | float, fill: int, rim: int) -> None:
    """A tube with a brighter cortex."""
    canvas.stroke(layer, path, width, rim)
    canvas.stroke(layer, path, np.asarray(width) * 0.66, fill)


def draw_ribs(canvas: Canvas, body: Anatomy) -> tuple[Bytes, Bytes]:
    """Posterior and anterior ribs, two layers."""
    rng = body.rng("ribs")
    unit = body.case.lung_height
    base, gap = rng.uniform(-0.045, -0.015), rng.uniform(0.088, 0.097)
    drop, hump = rng.uniform(0.10, 0.17), rng.uniform(0.025, 0.05)
    width = rng.uniform(0.034, 0.042) * unit
    slope = rng.uniform(0.20, 0.30)
    s = np.linspace(0, 1, 22)
    n = np.arange(11)[:, None]
    back_paths, front_paths = [], []
    for side in ("right", "left"):
        sign = body.sign(side)
        v0 = base + gap * n + rng.normal(0, 0.003, (11, 1))
        reach = body.wall(np.clip(v0 + drop * 0.8, 0, 1)) + 0.035
        u = 0.10 + (reach - 0.10) * s**0.92
        v = (
            v0
            - hump * np.sin(np.pi * np.minimum(s * 1.25, 1))
            + drop * (0.55 + 0.06 * n) * s**2.1
            + 0.35 * np.maximum(s - 0.86, 0)
        )
        back_paths.append(np.stack([sign * u, v], -1))
        k, out, start = n[1:8], reach[1:8], v[1:8, -1:] + 0.01
        u = out + (rng.uniform(0.36, 0.46, (7, 1)) + 0.015 * k - out) * s
        v = start + slope * (0.55 + 0.07 * k) * (s - 0.18 * s**2) - 0.0135 * np.sin(np.pi * s)
        front_paths.append(np.stack([sign * u, v], -1))
    back_widths = np.broadcast_to(width * (0.85 + 0.25 * s), (22, 22))
    front_widths = np.broadcast_to(width * 1.1 * (0.8 + 0.3 * s) * np.sqrt(1.25 - 0.7 * s), (14, 22))
    back = _bones(canvas, body.film(np.concatenate(back_paths)), back_widths, 160, 235)
    return back, _bones(canvas, body.film(np.concatenate(front_paths)), front_widths, 150, 200)


def _bones(canvas: Canvas, paths: Points, widths: Points, fill: int, rim: int) -> Bytes:
    """Tubes with a brighter cortex."""
    layer = canvas.layer()
    canvas.strokes(layer, paths, widths, [rim] * len(paths))
    canvas.strokes(layer, paths, widths * 0.68, [fill] * len(paths))
    return layer


def draw_spine(canvas: Canvas, body: Anatomy) -> Bytes:
    """Vertebral bodies, brighter end plates and pedicles."""
    rng = body.rng("spine")
    layer = canvas.layer()
    bend, size = rng.uniform(-0.02, 0.02), rng.uniform(0.085, 0.10)
    turn = body.case.turn * 0.3
    v0 = np.arange(-5, 21) * size - 0.02
    half = 0.085 + 0.002 * np.arange(-5, 21)
    mid = turn + bend * np.sin(np.pi * v0)
    for m, h, v in zip(mid, half, v0, strict=True):
        middle, bottom = v + size / 2 - 0.003, v + size - 0.012
        box = np.array(
            [
                (-h, v + 0.006),
                (h, v + 0.006),
                (0.86 * h, middle),
                (h, bottom),
                (-h, bottom),
                (-0.86 * h, middle),
            ]
        )
        canvas.fill(layer, body.film(box + np.array((m, 0.0))), 150)

    def lines(u: Points, v: Points, width: float, value: int) -> None:
        path = body.film(np.stack(np.broadcast_arrays(u, v), -1))
        canvas.strokes(layer, path, np.full(path.shape[:2], width), [value] * len(path))

    across = half[:, None] * np.linspace(-1, 1, 3) + mid[:, None]
    for plate in (v0 + 0.006, v0 + size - 0.012):
        lines(across, plate[:, None], 0.005, 230)
    for sign in (-1, 1):
        centre = (mid + sign * half * 0.55)[:, None]
        lines(centre, (v0 + 0.35 * size)[:, None] + np.array([-0.013, 0.0, 0.013]), 0.013, 225)
    lines(mid[:, None], v0[:, None] + size * np.array([0.45, 0.7, 0.95]), 0.010, 215)
    return layer


_TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)


def draw_shoulders(canvas: Canvas, body: Anatomy) -> tuple[Bytes, Bytes]:
    """Clavicles, and scapulae with the humeral heads: two layers."""
    rng = body.rng("shoulders")
    clavicles, blades = canvas.layer(), canvas.layer()
    lift = rng.uniform(-0.03, 0.04)
    for side in ("right", "left"):
        sign, turn = body.sign(side), body.case.turn
        start = 0.125 + sign * turn * 0.8
        lift_side = lift + rng.normal(0, 0.008)
        path = smooth(
            [
                (start, 0.115),
                (0.24, 0.095),
                (0.45, 0.055),
                (0.70, 0.0 - lift_side),
                (0.93, -0.035 - lift_side),
                (1.18, -0.06 - lift_side),
            ],
            6,
        )
        path[:, 0] *= sign
        width = (
            0.036
            * body.case.lung_height
            * np.interp(np.linspace(0, 1, len(path)), [0, 0.12, 0.5, 1], [1.35, 1.0, 0.85, 1.15])
        )
        _bone(canvas, clavicles, body.film(path), width, 165, 240)
        out = rng.uniform(0.0, 0.07)
        blade = smooth(
            [
                (0.92 + out, 0.02),
                (1.25, -0.05),
                (1.34, 0.08),
                (1.16 + out, 0.24),
                (1.04 + out, 0.43),
                (0.96 + out, 0.46),
                (0.90 + out, 0.28),
            ],
            6,
            closed=True,
        )
        blade[:, 0] *= sign
        canvas.fill(blades, body.film(blade), 110)
        edge = smooth([(0.90 + out, 0.05), (0.90 + out, 0.28), (0.96 + out, 0.46)], 6) * [sign, 1]
        canvas.stroke(blades, body.film(edge), 0.009, 200)
        edge = smooth([(1.30, 0.10), (1.16 + out, 0.24), (1.04 + out, 0.43), (0.97 + out, 0.46)], 6) * [
            sign,
            1,
        ]
        canvas.stroke(blades, body.film(edge), 0.012, 215)
        head = np.array([1.44, 0.03]) + np.stack([0.14 * np.cos(_TURN), 0.08 * np.sin(_TURN)], 1)
        arm = smooth([(1.46, 0.03), (1.58, 0.3), (1.66, 0.7)], 6) * [sign, 1]
        canvas.stroke(blades, body.film(arm), 0.05, 180)
        canvas.fill(blades, body.film(smooth(head * [sign, 1], 3, closed=True)), 170)
    return clavicles, blades


def draw_vessels(canvas: Canvas, body: Anatomy, thick: float = 1.0) -> Bytes:
    """Branching lung vessels that fan out from the hila; ``thick`` widens them."""
    rng = body.rng("vessels")
    layer = canvas.layer()
    count = 2 * _FAN
    sign = np.repeat((-1.0, 1.0), _FAN)
    angle = np.tile(np.linspace(-1.35, 1.40, _FAN), 2) + rng.normal(0, 0.08, count)
    start = np.stack([sign * 0.17 + body.case.turn * 0.8, np.where(sign > 0, 0.425, 0.455) + 0.075 * np.sin(angle)], 1)
    length = rng.uniform(0.30, 0.42, count) * (1.0 + 0.3 * np.abs(np.sin(angle)))
    width = rng.uniform(0.015, 0.023, count) * body.case.lung_height * thick
    for u0, v0 in ((-0.205, 0.455), (0.215, 0.425)):
        turn = 2 * np.pi * np.arange(16) / 16
        radius = 1 + rng.normal(0, 0.10, 16)
        blob = np.stack(
            [u0 + body.case.turn * 0.8 + 0.062 * radius * np.cos(turn), v0 + 0.07 * radius * np.sin(turn)], 1
        )
        canvas.fill(layer, body.film(smooth(blob, 3, closed=True)), 105)
    paths, widths = [], []
    for level, places in enumerate(((2, 4, 6), (3, 6), ())):
        path, along, taper = _grow(rng, start, angle, length, width, sign)
        paths.append(path)
        widths.append(taper)
        if level == 2:
            break
        joint = np.array(places)
        start = path[:, joint].reshape(-1, 2)
        turn = rng.choice((-1.0, 1.0), (len(path), len(joint))) * rng.uniform(0.35, 0.8, (len(path), len(joint)))
        angle = (along[:, joint - 1] + turn).ravel()
        length = (length[:, None] * rng.uniform(0.35, 0.6, turn.shape)).ravel()
        width = (taper[:, joint] * 0.72).ravel()
        sign = np.repeat(sign, len(joint))
    path, taper = np.concatenate(paths[::-1]), np.concatenate(widths[::-1])
    canvas.strokes(layer, body.film(path), taper, np.clip(40 + 10500 * taper[:, 0] / thick**0.5, 70, 235).astype(int))
    return layer


_FAN = 8


def _grow(
    rng: np.random.Generator, start: Points, angle: Points, length: Points, width: Points, sign: Points
) -> tuple[Points, Points, Points]:
    """Curved tapering branches: paths [M,8,2] (chest frame), their directions [M,7] and widths [M,8]."""
    steps = 7
    bend = rng.normal(0, 0.30, len(start)) - 0.18 * angle
    along = angle[:, None] + bend[:, None] * np.linspace(0, 1, steps)
    moves = np.stack([sign[:, None] * np.cos(along) * 1.75, np.sin(along)], -1) * (length / steps)[:, None, None]
    path = np.concatenate([start[:, None], start[:, None] + np.cumsum(moves, 1)], 1)
    return path, along, width[:, None] * np.linspace(1, 0.30, steps + 1)
