# SPDX-License-Identifier: Apache-2.0
"""Drawing a case: attenuation along the ray is summed layer by layer, then turned into display values."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from .anatomy import Anatomy
from .bones import draw_ribs, draw_shoulders, draw_spine, draw_vessels
from .canvas import Array, Canvas, smooth
from .case import Case
from .devices import draw_devices
from .findings import (
    add_nodule,
    add_opacity,
    draw_kerley,
    edema_haze,
    effusion_outline,
    lung_edge,
    zone_names,
)
from .labels import SIDES

Mask = npt.NDArray[np.bool_]


@dataclass
class Phantom:
    """A drawn case.

    Attributes
    ----------
    image : float32 [H,W]
        0..1, bright = dense (as films are displayed).
    lungs : bool [H,W]
        Both lung fields as one would outline them: from the chest wall to the edge of heart and mediastinum
        and down to the diaphragm. Air of a pneumothorax and opacities belong to them, pleural fluid does not.
    heart : bool [H,W]
        Cardiac silhouette above the diaphragm; it never overlaps ``lungs``.
    regions : dict of bool [H,W]
        For each label where it shows; it may overlap anything. For cardiomegaly the heart, for an elevated
        hemidiaphragm the raised area between it and where that dome normally lies.
    """

    image: Array
    lungs: Mask
    heart: Mask
    regions: dict[str, Mask] = field(default_factory=dict)


def draw(case: Case, height: int, width: int) -> Phantom:
    """Draw ``case`` at ``height`` x ``width`` pixels (stretched when the shape is not the film's).

    Raises
    ------
    ValueError
        When a side is below 64 pixels.
    """
    if min(height, width) < 64:
        raise ValueError(f"a phantom needs at least 64 pixels a side, got {height}x{width}")
    canvas, body = Canvas(height, width, case.aspect), Anatomy(case)
    labels = case.labels
    regions: dict[str, Mask] = {}

    cavity = canvas.layer()
    for side in SIDES:
        canvas.fill(cavity, body.film(body.cavity(side)))
    below = canvas.layer()
    canvas.fill(below, body.film(body.abdomen()))
    whole_heart = canvas.layer()
    canvas.fill(whole_heart, body.film(body.heart_outline()))
    heart = cv2.subtract(whole_heart, below)
    vessels_above = canvas.layer()
    canvas.fill(vessels_above, body.film(body.mediastinum()))
    fluid = canvas.layer()
    for side in SIDES:
        for size in ("small", "large"):
            name = f"effusion_{side}_{size}"
            if name in labels:
                one = canvas.layer()
                canvas.fill(one, body.film(effusion_outline(body, side, size == "large")))
                fluid = cv2.max(fluid, one)
                regions[name] = canvas.mask(cv2.min(one, cavity))
    heart_mask = canvas.mask(heart)
    lungs = canvas.mask(cv2.subtract(cavity, cv2.max(cv2.max(heart, vessels_above), fluid)))
    if "cardiomegaly" in labels:
        regions["cardiomegaly"] = heart_mask.copy()

    x, y = canvas.coarse_xy()
    u, v = body.chest(x, y)
    tissue, air = _soft_tissue(case, body, u, v), _air(case, body, u, v)
    central = cv2.max(whole_heart, vessels_above)
    open_air = (
        canvas.down(cavity, 0.0022)
        * (1 - 0.90 * canvas.down(central, 0.0032))
        * (1 - 0.93 * canvas.down(fluid, 0.0045))
    )
    density = canvas.up(tissue) - open_air * canvas.up(air)
    density += 0.035 * canvas.down(heart, 0.012) + 0.05 * canvas.down(fluid, 0.006)

    thick = 1.55 if "edema" in labels else 1.0
    vessels = canvas.down(draw_vessels(canvas, body, thick), 0.0012)
    inside = open_air.copy()
    for side in SIDES:
        name = f"pneumothorax_{side}"
        if name in labels:
            line, outline = lung_edge(body, side)
            gas, edge = canvas.layer(), canvas.layer()
            canvas.fill(gas, body.film(outline))
            gas = cv2.min(gas, cavity)
            canvas.stroke(edge, body.film(line), 0.0062, 255)
            gas_soft = canvas.down(gas, 0.001)
            inside *= 1 - gas_soft
            half = canvas.up(((u * body.sign(side)) > 0).astype(np.float32))
            density += (
                open_air * (0.045 * half - 0.125 * gas_soft) + 0.17 * canvas.down(cv2.min(edge, cavity)) * open_air
            )
            regions[name] = canvas.mask(gas)
    density += 0.155 * case.vessel_contrast * vessels * inside
    if "edema" in labels:
        density += 0.22 * canvas.up(edema_haze(body, u, v)) * open_air
        density += 0.13 * canvas.down(draw_kerley(canvas, body), 0.0006) * open_air
        regions["edema"] = lungs.copy()

    back, front = draw_ribs(canvas, body)
    clavicles, blades = draw_shoulders(canvas, body)
    trunk = canvas.up(_trunk(case, body, u, v))
    bones = 0.125 * canvas.down(back, 0.0016) + 0.065 * canvas.down(front, 0.0025)
    bones = case.rib_contrast * bones * (0.30 + 0.70 * open_air) + 0.11 * canvas.down(clavicles, 0.0016)
    bones += (0.08 * canvas.down(blades, 0.003) + 0.085 * canvas.down(draw_spine(canvas, body), 0.002)) * (
        1 - 0.35 * open_air
    )
    density += bones * trunk
    density -= 0.13 * canvas.down(_airway(canvas, body), 0.0028)
    if case.bubble:
        density -= 0.17 * canvas.down(_bubble(canvas, body), 0.004) * canvas.down(below, 0.003)

    lesion = np.zeros_like(density)
    for kind, add in (("opacity", add_opacity), ("nodule", add_nodule)):
        for name in zone_names(kind):
            if name in labels:
                region = np.zeros((height, width), bool)
                add(canvas, body, name, lesion, region)
                regions[name] = region
    density += lesion * canvas.down(cv2.subtract(cavity, below), 0.004)
    for side in SIDES:
        name = f"elevated_hemidiaphragm_{side}"
        if name in labels:
            regions[name] = _raised(canvas, body, side)

    density *= trunk
    density += _texture(canvas, body, u, v) * (0.35 + 0.65 * open_air)
    devices, alone = draw_devices(canvas, body)
    if alone:
        density += canvas.down(devices, 0.0007) * (0.27 + 0.72 * np.maximum(0.9 - density, 0))
    for name, layer in alone.items():
        regions[name] = canvas.down(layer, 0.005) > 0.04
    image = _develop(canvas, case, body, density)
    return Phantom(image, lungs, heart_mask, regions)


def _step(value: Array, width: float) -> Array:
    return 1 / (1 + np.exp(-np.clip(value / np.float32(width), -30, 30)))


def _trunk(case: Case, body: Anatomy, u: Array, v: Array) -> Array:
    """1 inside the body, 0 in the air around it (coarse)."""
    a = np.abs(u)
    fat = 0.07 + 0.13 * case.build
    side = 1.03 + fat + 0.75 * np.maximum(0.55 - v, 0) ** 1.3
    shoulder = -0.10 - 0.05 * case.build + 0.30 * np.maximum(a - 0.40, 0) ** 1.5
    neck = _step(0.38 + 0.06 * case.build - a, 0.02)
    return _step(side - a, 0.016) * np.maximum(_step(v - shoulder, 0.014), neck * (v < 0.2))


def _soft_tissue(case: Case, body: Anatomy, u: Array, v: Array) -> Array:
    """Attenuation without any air (coarse)."""
    a = np.abs(u)
    rng = body.rng("tissue")
    out = (
        0.47
        + 0.06 * case.build
        + 0.14 * np.exp(-((u / 0.32) ** 2))
        + 0.12 * _step(v - 0.92, 0.07)
        - 0.07 * _step(a - 1.1, 0.08) * _step(0.75 - v, 0.1)
    )
    out += 0.05 * np.exp(-(((a - 1.15) / 0.35) ** 2 + ((v - 0.08) / 0.18) ** 2))
    if case.breasts:
        size, low = rng.uniform(0.26, 0.36), rng.uniform(0.72, 0.82)
        shape = ((a - 0.58) / (size * 1.5)) ** 2 + ((v - low) / (size * 0.75)) ** 2
        out += rng.uniform(0.05, 0.085) * _step(1 - shape, 0.10) * (0.7 + 0.3 * np.clip((v - low) / 0.2 + 0.5, 0, 1))
    return out.astype(np.float32)


def _air(case: Case, body: Anatomy, u: Array, v: Array) -> Array:
    """How much an open lung takes away (coarse)."""
    a = np.abs(u)
    edge = np.clip((body.wall(v) - a) / 0.45, 0, 1)
    out = 0.315 + 0.10 * np.sqrt(edge) - 0.045 * np.exp(-(((a - 0.24) / 0.16) ** 2 + ((v - 0.46) / 0.17) ** 2)) * 2.0
    out -= 0.05 * _step(v - 0.78, 0.08) + 0.03 * np.exp(-((v / 0.12) ** 2))
    return out.astype(np.float32)


def _airway(canvas: Canvas, body: Anatomy) -> npt.NDArray[np.uint8]:
    rng = body.rng("airway")
    layer = canvas.layer()
    turn, lean = body.case.turn * 0.7, rng.uniform(-0.02, 0.0)
    fork = np.array([turn + lean, 0.35])
    canvas.stroke(
        layer,
        body.film(smooth([(turn, -0.7), (turn, -0.3), (turn, -0.05), (turn + lean * 0.6, 0.2), tuple(fork)], 6)),
        0.032 * body.case.lung_height / 0.72,
        220,
    )
    for sign, reach in ((-1, (-0.19, 0.45)), (1, (0.23, 0.435))):
        canvas.stroke(
            layer,
            body.film(smooth([tuple(fork - [0, 0.015]), (turn + sign * 0.09, 0.395), (turn + reach[0], reach[1])], 6)),
            0.022,
            160,
        )
    return layer


def _bubble(canvas: Canvas, body: Anatomy) -> npt.NDArray[np.uint8]:
    rng = body.rng("bubble")
    layer = canvas.layer()
    u0, a, b = rng.uniform(0.36, 0.52), rng.uniform(0.13, 0.2), rng.uniform(0.04, 0.065)
    top = float(body.floor("left", u0)) + 0.022 + b
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([u0 + a * np.cos(turn), top + b * np.where(np.sin(turn) > 0, 0.75, 1.0) * np.sin(turn)], 1)
    canvas.fill(layer, body.film(ring), 230)
    return layer


def _raised(canvas: Canvas, body: Anatomy, side: str) -> Mask:
    """Between a raised dome and the place where it normally lies."""
    layer = canvas.layer()
    u = np.linspace(0.12, float(body.wall(0.9)), 20)
    v = body.floor(side, u)
    normal = np.maximum(v + 0.04, body.case.dome + 0.02)
    area = np.concatenate([np.stack([u, v - 0.03], 1), np.stack([u, normal], 1)[::-1]]) * [body.sign(side), 1]
    canvas.fill(layer, body.film(area))
    return canvas.mask(layer)


def _texture(canvas: Canvas, body: Anatomy, u: Array, v: Array) -> Array:
    """Fine structure common to all resolutions: two band-limited random fields."""
    rng = body.rng("texture")
    fine = rng.normal(0, 1, (256, 256)).astype(np.float32)
    coarse = rng.normal(0, 1, (72, 72)).astype(np.float32)
    return np.float32(body.case.noise) * (np.float32(0.0085) * canvas.up(fine) + np.float32(0.011) * canvas.up(coarse))


def _develop(canvas: Canvas, case: Case, body: Anatomy, density: Array) -> Array:
    """Tone curve, pixel noise, marker and collimation."""
    level = (density - np.float32(0.03)) / np.float32(0.88)
    level = (level - 0.5) * np.float32(case.contrast) + np.float32(0.5 + case.brightness)
    image = np.clip(level, 0, 1) ** np.float32(case.gamma)
    rng = body.rng("grain")
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image += grain * np.float32(0.006 * case.noise)
    if case.marker:
        image = np.maximum(image, 0.96 * canvas.down(_marker(canvas, case, body), 0.0006))
    left, top, right, bottom = case.collimation
    if any(case.collimation):
        ramp_x, ramp_y = (
            (np.arange(canvas.width) + 0.5) / canvas.width,
            (np.arange(canvas.height) + 0.5) / canvas.height,
        )
        soft = 0.0025
        gate_x = np.clip((ramp_x - left) / soft + (left <= 0), 0, 1) * np.clip(
            (1 - right - ramp_x) / soft + (right <= 0), 0, 1
        )
        gate_y = np.clip((ramp_y - top) / soft + (top <= 0), 0, 1) * np.clip(
            (1 - bottom - ramp_y) / soft + (bottom <= 0), 0, 1
        )
        image *= (gate_x[None, :] * gate_y[:, None]).astype(np.float32)
    return np.clip(image, 0, 1, out=image).astype(np.float32, copy=False)


_STROKES = {
    "L": [[(0, 0), (0, 1), (0.62, 1)]],
    "R": [[(0, 1), (0, 0), (0.45, 0.02), (0.62, 0.25), (0.45, 0.5), (0, 0.52)], [(0.3, 0.52), (0.64, 1)]],
}


def _marker(canvas: Canvas, case: Case, body: Anatomy) -> npt.NDArray[np.uint8]:
    rng = body.rng("marker")
    layer = canvas.layer()
    size = rng.uniform(0.026, 0.036)
    side = -1 if case.marker == "R" else 1
    x0 = rng.uniform(0.05, 0.09) if side < 0 else rng.uniform(0.89, 0.93)
    y0 = rng.uniform(0.05, 0.09) * case.aspect
    for path in _STROKES[case.marker]:
        canvas.stroke(layer, np.array(path) * size + [x0, y0], 0.0062, 255)
    return layer
