# SPDX-License-Identifier: Apache-2.0
"""Tubes, lines, pacemaker and sternal wires."""

from __future__ import annotations

import numpy as np

from .anatomy import Anatomy
from .canvas import Bytes, Canvas, smooth

_TURN = np.linspace(0, 2 * np.pi, 28)


def draw_devices(canvas: Canvas, body: Anatomy) -> tuple[Bytes, dict[str, Bytes]]:
    """All devices of the case on one layer, and each of them alone on its own."""
    layer = canvas.layer()
    alone: dict[str, Bytes] = {}
    for name, paint in _PAINT.items():
        if name in body.case.labels:
            paint(canvas, layer, body)
            alone[name] = canvas.layer()
            paint(canvas, alone[name], body)
    return layer, alone


def _wires(canvas: Canvas, layer: Bytes, body: Anatomy) -> None:
    rng = body.rng("sternal_wires")
    count = int(rng.integers(5, 7))
    for v in np.linspace(0.24, 0.80, count):
        centre = body.film(np.array([body.case.turn * 0.9 + rng.normal(0, 0.008), v + rng.normal(0, 0.006)]))
        lean, a, b = rng.normal(0, 0.25), rng.uniform(0.015, 0.019), rng.uniform(0.010, 0.014)
        x, y = a * np.cos(_TURN), b * np.sin(_TURN)
        ring = centre + np.stack([x * np.cos(lean) - y * np.sin(lean), x * np.sin(lean) + y * np.cos(lean)], 1)
        canvas.stroke(layer, ring, 0.0042, 230)
        knot = centre + np.array([(-0.006, -b), (0.0, -b - 0.002), (0.006, -b)])
        canvas.stroke(layer, knot, 0.006, 255)


def _line(canvas: Canvas, layer: Bytes, body: Anatomy) -> None:
    rng = body.rng("central_line")
    tip, turn = rng.uniform(0.36, 0.45), body.case.turn * 0.8
    if body.case.line_side == "right":
        if rng.random() < 0.55:
            path = [
                (-0.36, -0.34),
                (-0.30, -0.16),
                (-0.235, 0.02),
                (-0.165, 0.16),
                (-0.125, 0.28),
                (-0.13, tip),
            ]
        else:
            path = [
                (-0.98, 0.17),
                (-0.80, 0.06),
                (-0.52, 0.045),
                (-0.28, 0.09),
                (-0.15, 0.20),
                (-0.125, 0.30),
                (-0.13, tip),
            ]
    elif rng.random() < 0.4:
        path = [
            (0.36, -0.34),
            (0.30, -0.16),
            (0.22, 0.03),
            (0.08, 0.14),
            (-0.07, 0.21),
            (-0.125, 0.30),
            (-0.13, tip),
        ]
    else:
        path = [
            (0.98, 0.17),
            (0.80, 0.06),
            (0.52, 0.05),
            (0.25, 0.10),
            (0.02, 0.165),
            (-0.09, 0.24),
            (-0.13, 0.33),
            (-0.13, tip),
        ]
    points = smooth(path, 8)
    points[:, 0] += turn * np.clip(points[:, 1] * 5, 0, 1)
    film = body.film(points)
    canvas.stroke(layer, film, 0.0058, 205)


def _tube(canvas: Canvas, layer: Bytes, body: Anatomy) -> None:
    rng = body.rng("endotracheal_tube")
    turn, tip = body.case.turn * 0.7, rng.uniform(0.17, 0.27)
    path = smooth([(turn + 0.01, -0.45), (turn - 0.015, -0.15), (turn, 0.02), (turn + 0.005, tip)], 10)
    film = body.film(path)
    canvas.stroke(layer, film, 0.021, 120)
    canvas.stroke(layer, film, 0.0125, 65)
    canvas.stroke(layer, film - [0.0085, 0], 0.005, 240)


def _pacemaker(canvas: Canvas, layer: Bytes, body: Anatomy) -> None:
    rng = body.rng("pacemaker")
    centre = body.film(np.array([rng.uniform(0.68, 0.80), rng.uniform(0.10, 0.17)]))
    size = rng.uniform(0.046, 0.055)
    lean = rng.uniform(-0.5, 0.5)
    x = size * np.sign(np.cos(_TURN)) * np.abs(np.cos(_TURN)) ** 0.6
    y = 0.85 * size * np.sign(np.sin(_TURN)) * np.abs(np.sin(_TURN)) ** 0.6
    can = centre + np.stack([x * np.cos(lean) - y * np.sin(lean), x * np.sin(lean) + y * np.cos(lean)], 1)
    turn = body.case.turn * 0.8
    tips = [[(-0.11, 0.44), (-0.12, 0.58), (-0.02, 0.76), (0.16, 0.84), (0.60 * body.heart_left, 0.855)]]
    if rng.random() < 0.6:
        tips.append([(-0.125, 0.44), (-0.15, 0.56), (-0.17, 0.63), (-0.13, 0.60)])
    for tail in tips:
        inner = np.array([(0.42, 0.085), (0.20, 0.11), (0.02, 0.165), (-0.08, 0.25), (-0.11, 0.34), *tail])
        inner[2:, 0] += turn
        start = (can.mean(0) + np.array((-0.8 * size, -0.55 * size)))[None]
        path = smooth(np.concatenate([start, body.film(inner)]), 8)
        canvas.stroke(layer, path, 0.0062, 215)
        end = path[-4:]
        canvas.stroke(layer, end, 0.010, 255)
    canvas.fill(layer, can, 250)
    inner_can = centre + (can - centre) * 0.78
    canvas.fill(layer, inner_can, 225)


_PAINT = {"sternal_wires": _wires, "central_line": _line, "endotracheal_tube": _tube, "pacemaker": _pacemaker}
