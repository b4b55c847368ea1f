# SPDX-License-Identifier: Apache-2.0
"""Outlines and densities of the findings."""

from __future__ import annotations

import cv2
import numpy as np

from .anatomy import Anatomy
from .canvas import Array, Bytes, Canvas, Points, smooth
from .labels import SIDES, ZONES


def effusion_outline(body: Anatomy, side: str, large: bool) -> Points:
    """Fluid above one diaphragm: its meniscus rises towards the chest wall (chest frame)."""
    rng = body.rng(f"effusion_{side}_{'large' if large else 'small'}")
    dome = body.domes[side]
    edge = float(body.wall(dome.angle))
    if large:
        t = np.linspace(0, 1, 24)
        level = rng.uniform(0.60, 0.66)
        rise = rng.uniform(0.10, 0.16)
        surface = level + 0.02 * t - rise * t**2.6
        u = 0.05 + (edge + 0.03 - 0.05) * t
        base = np.stack([u, body.floor(side, u) + 0.03], 1)
    else:
        start = rng.uniform(0.50, 0.62)
        t = np.linspace(start, 1, 20)
        w = (t - start) / (1 - start)
        wall_v = dome.angle - rng.uniform(0.17, 0.22)
        v0 = float(dome.height(start))
        surface = v0 + (wall_v - v0) * w**1.5 + 0.055 * np.sin(np.pi * w) ** 1.2 * (1 - w)
        u = 0.07 + (edge - 0.07) * t + 0.03 * w
        base = np.stack([u, dome.height(t) + 0.03], 1)
    top = np.stack([np.minimum(u, 1.02), surface], 1)
    outline = np.concatenate([top, base[::-1]])
    outline[:, 0] *= body.sign(side)
    return outline


def lung_edge(body: Anatomy, side: str) -> tuple[Points, Points]:
    """Collapsed lung: the visible pleural line [N,2], and the outline of the air around it (chest frame)."""
    rng = body.rng(f"pneumothorax_{side}")
    gap, top = rng.uniform(0.15, 0.24), rng.uniform(0.085, 0.135)
    v = np.linspace(top, body.domes[side].angle - 0.03, 28)
    w = np.linspace(0, 1, 28)
    inset = gap * (1 - 0.75 * w**2.5) + 0.012 * np.sin(rng.uniform(5, 9) * w + rng.uniform(0, 6))
    u = body.wall(v) - inset - 0.16 * np.maximum(1 - w / 0.2, 0) ** 1.6
    line = np.concatenate(
        [smooth([(0.20, top + 0.05), (0.30, top + 0.008), (float(u[0]), top)], 5)[:-1], np.stack([u, v], 1)]
    )
    vw = np.linspace(body.domes[side].angle - 0.03, 0.0, 28)
    outer = np.stack([body.wall(vw) + 0.05, vw], 1)
    outline = np.concatenate([line, outer, [(0.40, -0.03), (0.16, 0.0)]])
    return line * [body.sign(side), 1], outline * [body.sign(side), 1]


def place(body: Anatomy, name: str, radius: float) -> Points:
    """Centre (film units) of a lesion of ``radius`` film widths inside its side and zone, clear of the heart.

    Lesions of one lung never lie in the same zone, so they cannot overlap by more than their faint rims.
    """
    kind, side, zone = name.split("_")
    rng = body.rng(name)
    low, high = body.zone(side, zone)
    rv, ru = radius / body.case.lung_height, radius / body.case.half_width
    inset = min(0.75 * rv if kind == "opacity" else rv + 0.015, 0.46 * (high - low))
    top, bottom = low + inset, high - inset
    if zone == "upper":
        top = max(top, 0.075 + 0.8 * rv)
        bottom = max(bottom, top + 0.01)
    if zone == "lower":
        bottom += 0.025
    v = float(rng.uniform(top, bottom))
    keep = 0.8 if kind == "opacity" else 1.15
    inner = max(body.heart_edge(side, v) + keep * ru, 0.26 + 0.5 * ru)
    outer = min(float(body.wall(v - 0.5 * rv)), float(body.wall(v))) - keep * ru - 0.02
    if zone == "lower":
        outer = min(outer, 0.86 - 0.4 * ru)
    if inner > outer:
        inner = outer = 0.5 * (inner + outer)
    return body.film(np.array([body.sign(side) * rng.uniform(inner, outer), v]))


def add_nodule(canvas: Canvas, body: Anatomy, name: str, density: Array, region: np.ndarray) -> None:
    """Add a round, sharply bounded ball to ``density`` and mark it in ``region`` (both in place)."""
    rng = body.rng(name + "_size")
    radius = float(rng.uniform(0.0235, 0.032))
    x0, y0 = place(body, name, radius)
    rows, cols, x, y = canvas.window((x0, y0), radius * 1.6)
    angle = np.arctan2(y - y0, x - x0)
    wobble = 1 + 0.05 * np.cos(2 * angle + rng.uniform(0, 6)) + 0.03 * np.cos(3 * angle + rng.uniform(0, 6))
    r = np.hypot(x - x0, y - y0) / (radius * wobble)
    soft = np.clip((1.06 - r) / 0.16, 0, 1)
    density[rows, cols] += (rng.uniform(0.23, 0.29) * soft * (0.62 + 0.38 * np.sqrt(np.maximum(1 - r**2, 0)))).astype(
        np.float32
    )
    region[rows, cols] |= r < 1.06


def add_opacity(canvas: Canvas, body: Anatomy, name: str, density: Array, region: np.ndarray) -> None:
    """Add an ill-defined fluffy patch with dark air bronchograms, in place."""
    rng = body.rng(name + "_size")
    diameter = float(rng.uniform(0.16, 0.22)) * 2 * body.case.half_width
    x0, y0 = place(body, name, diameter / 2)
    n = 96
    line = np.linspace(-1.5, 1.5, n, dtype=np.float32)
    gx, gy = np.meshgrid(line, line)
    patch = np.zeros((n, n), np.float32)
    for _ in range(7):
        bx, by, size = rng.normal(0, 0.45), rng.normal(0, 0.45), rng.uniform(0.50, 0.75)
        patch += rng.uniform(0.5, 1.0) * np.exp(-((gx - bx) ** 2 + (gy - by) ** 2) / (2 * size**2) * 2.2)
    rough = cv2.resize(rng.normal(0, 1, (14, 14)).astype(np.float32), (n, n), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(0, 1, (30, 30)).astype(np.float32), (n, n), interpolation=cv2.INTER_CUBIC)
    patch = 1 / (1 + np.exp(-(patch * 2.6 - 2.7 + 0.7 * rough + 0.35 * fine)))
    patch *= np.clip((1.45 - np.hypot(gx, gy)) / 0.45, 0, 1)
    air = np.zeros((n, n), np.uint8)
    toward = rng.uniform(-0.6, 0.6) + (0 if x0 < 0.5 else np.pi)
    for bend in (-0.45, 0.05, 0.5):
        t = np.linspace(-0.75, 0.6, 9)
        a = toward + np.pi + bend
        px, py = (
            -np.cos(toward) * 0.1 + np.cos(a) * t,
            -np.sin(toward) * 0.1 + np.sin(a) * t + 0.1 * bend * t**2,
        )
        pts = np.rint((np.stack([px, py], 1) + 1.5) / 3 * (n - 1) * 16).astype(np.int32)
        cv2.polylines(air, [pts], False, 255, 2, cv2.LINE_AA, 4)
    patch *= 1 - 0.28 * cv2.GaussianBlur(air, (0, 0), 1.0).astype(np.float32) / 255
    span = 1.5 * diameter / 2
    rows, cols, x, y = canvas.window((x0, y0), span)
    mx = ((x - x0) / span * 1.5 + 1.5) / 3 * n - 0.5
    my = ((y - y0) / span * 1.5 + 1.5) / 3 * n - 0.5
    shape = (y.shape[0], x.shape[1])
    mx, my = (np.ascontiguousarray(np.broadcast_to(m, shape), np.float32) for m in (mx, my))
    value = cv2.remap(patch, mx, my, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    density[rows, cols] += np.float32(rng.uniform(0.28, 0.35)) * value
    region[rows, cols] |= value > 0.3


def edema_haze(body: Anatomy, u: Array, v: Array) -> Array:
    """Perihilar haze of oedema on the coarse grid (chest frame coordinates)."""
    rng = body.rng("edema")
    haze = np.zeros_like(u)
    for side in SIDES:
        sign = body.sign(side)
        du, dv = (sign * u - 0.40) / 0.30, (v - rng.uniform(0.46, 0.52)) / 0.23
        haze += np.exp(-0.5 * (du**2 + dv**2)) * (sign * u > 0)
        haze += 0.35 * np.exp(-0.5 * (((sign * u - 0.5) / 0.4) ** 2 + ((v - 0.72) / 0.18) ** 2))
    rough = cv2.resize(rng.normal(0, 1, (22, 22)).astype(np.float32), u.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (haze * np.clip(1 + 0.30 * rough, 0.2, 2)).astype(np.float32)


def draw_kerley(canvas: Canvas, body: Anatomy) -> Bytes:
    """Short horizontal septal lines at the lateral lung bases, and a coarse net through the lungs."""
    rng = body.rng("kerley")
    layer = canvas.layer()
    for side in SIDES:
        sign = body.sign(side)
        bottom = body.domes[side].angle - 0.08
        for v in np.linspace(bottom - 0.30, bottom, 11) + rng.normal(0, 0.006, 11):
            reach = float(body.wall(v)) - 0.015
            length = rng.uniform(0.06, 0.13)
            path = np.array(
                [
                    (sign * reach, v),
                    (sign * (reach - length / 2), v + 0.002),
                    (sign * (reach - length), v + rng.normal(0.004, 0.006)),
                ]
            )
            canvas.stroke(layer, body.film(path), 0.0042, 220)
        for _ in range(26):
            v, u, turn = rng.uniform(0.25, 0.82), rng.uniform(0.3, 0.85), rng.uniform(0, np.pi)
            arm = 0.045 * np.array([1.6 * np.cos(turn), np.sin(turn)])
            mid = np.array([u, v])
            path = np.array([mid - arm, mid + 0.2 * arm[::-1], mid + arm]) * [sign, 1]
            canvas.stroke(layer, body.film(path), 0.0036, 100)
    return layer


def zone_names(kind: str) -> list[str]:
    """Labels of one kind of lesion ("opacity" or "nodule")."""
    return [f"{kind}_{side}_{zone}" for side in SIDES for zone in ZONES]
