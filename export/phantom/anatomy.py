# SPDX-License-Identifier: Apache-2.0
"""Shape of one phantom's chest: outlines in the chest frame (u, v) and their place on the film."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .canvas import Array, Points, smooth
from .case import Case
from .labels import LABELS

_WALL = np.array(
    [
        (0.46, -0.005),
        (0.62, 0.035),
        (0.765, 0.13),
        (0.86, 0.26),
        (0.93, 0.43),
        (0.978, 0.62),
        (1.0, 0.8),
        (0.995, 0.92),
        (0.98, 1.05),
    ]
)
_MEDIAL = 0.07
NORMAL_CTR = (0.38, 0.46)
ENLARGED_CTR = (0.575, 0.66)


@dataclass(frozen=True)
class Dome:
    """One half of the diaphragm: ``v`` of its top, costophrenic angle and medial end."""

    top: float
    angle: float
    medial: float
    peak: float = 0.45

    def height(self, t: Array | Points) -> Points:
        """``v`` of the diaphragm at ``t`` (0 medial end, 1 costophrenic angle)."""
        t = np.clip(np.asarray(t, float), 0, 1)
        inner = self.top + (self.medial - self.top) * ((self.peak - t) / self.peak) ** 2
        outer = self.top + (self.angle - self.top) * np.maximum((t - self.peak) / (1 - self.peak), 0) ** 2.7
        return np.where(t < self.peak, inner, outer)


class Anatomy:
    """Outlines of one case. ``side`` is "right" or "left" of the patient; right has negative ``u``."""

    def __init__(self, case: Case) -> None:
        self.case = case
        angle = math.radians(case.tilt)
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._centre = np.array([case.centre_x, case.centre_y * case.aspect])
        rng = self.rng("anatomy")
        self.wall_shape = float(rng.uniform(-0.03, 0.03))
        big = "cardiomegaly" in case.labels
        low, high = ENLARGED_CTR if big else NORMAL_CTR
        self.ctr = low + (high - low) * case.heart
        share = float(rng.uniform(0.30, 0.36)) - (0.02 if big else 0.0)
        self.heart_right, self.heart_left = 2 * self.ctr * share, 2 * self.ctr * (1 - share)
        self.knob = float(rng.uniform(0.0, 1.0)) ** 1.3
        self.domes = {"right": self._dome("right"), "left": self._dome("left")}

    def rng(self, name: str) -> np.random.Generator:
        """Random stream of one structure, fixed by the case's seed."""
        tag = LABELS.index(name) if name in LABELS else 1000 + sum(ord(c) * (i + 7) for i, c in enumerate(name))
        return np.random.default_rng([self.case.seed, tag])

    def _dome(self, side: str) -> Dome:
        case = self.case
        top = case.dome + (case.dome_step if side == "left" else 0.0)
        rise = 0.0
        if f"elevated_hemidiaphragm_{side}" in case.labels:
            rise = float(self.rng(f"elevated_hemidiaphragm_{side}").uniform(0.15, 0.22))
        return Dome(top - rise, 1.0 - 0.4 * rise + 0.3 * (top - 0.83), top + 0.075 - 0.7 * rise)

    def film(self, points: Points) -> Points:
        """Chest frame [N,2] to film units [N,2]."""
        p = np.asarray(points, float)
        dx, dy = p[..., 0] * self.case.half_width, (p[..., 1] - 0.5) * self.case.lung_height
        return self._centre + np.stack([dx * self._cos - dy * self._sin, dx * self._sin + dy * self._cos], -1)

    def chest(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Film units to chest frame ``u``, ``v``."""
        dx, dy = x - np.float32(self._centre[0]), y - np.float32(self._centre[1])
        c, s = np.float32(self._cos), np.float32(self._sin)
        return (dx * c + dy * s) / np.float32(self.case.half_width), (dy * c - dx * s) / np.float32(
            self.case.lung_height
        ) + np.float32(0.5)

    @staticmethod
    def sign(side: str) -> float:
        """-1 for the patient's right (image left), +1 for the left."""
        return -1.0 if side == "right" else 1.0

    def wall(self, v: Array | Points) -> Points:
        """Half width (``u``) of the chest at ``v``."""
        v = np.asarray(v, float)
        return np.interp(v, _WALL[:, 1], _WALL[:, 0]) + self.wall_shape * np.exp(-(((v - 0.25) / 0.2) ** 2))

    def dome_t(self, side: str, u: Array | Points) -> Points:
        """Place along the diaphragm (0..1) of the distance ``u`` >= 0 from the midline."""
        edge = float(self.wall(self.domes[side].angle))
        return (np.asarray(u, float) - _MEDIAL) / (edge - _MEDIAL)

    def floor(self, side: str, u: Array | Points) -> Points:
        """``v`` of the diaphragm at distance ``u`` >= 0 from the midline."""
        return self.domes[side].height(self.dome_t(side, u))

    def cavity(self, side: str) -> Points:
        """Outline [N,2] (chest frame) of one pleural cavity, its part behind the heart included."""
        dome = self.domes[side]
        v = np.linspace(0.035, dome.angle, 32)
        lateral = np.stack([self.wall(v), v], 1)
        u = np.linspace(float(lateral[-1, 0]), _MEDIAL, 28)[1:]
        base = np.stack([u, self.floor(side, u)], 1)
        top = smooth([(_MEDIAL, 0.22), (0.12, 0.09), (0.24, 0.022), (0.40, 0.0), (0.54, 0.008), tuple(lateral[0])], 6)
        outline = np.concatenate([top[:-1], lateral, base])
        outline[:, 0] *= self.sign(side)
        return outline

    def abdomen(self) -> Points:
        """Outline of everything below the diaphragm."""
        t = np.linspace(1.0, 0.0, 28)
        parts = []
        for side in ("right", "left"):
            edge = float(self.wall(self.domes[side].angle))
            u = _MEDIAL + (edge - _MEDIAL) * t
            parts.append(np.stack([self.sign(side) * u, self.floor(side, u)], 1))
        right, left = parts[0], parts[1][::-1]
        return np.concatenate([right, left, [(1.15, 1.02), (1.3, 1.6), (-1.3, 1.6), (-1.15, 1.02)]])

    def heart_outline(self) -> Points:
        """Outline of the heart, closed below (the diaphragm cuts it)."""
        r, left, turn = self.heart_right, self.heart_left, self.case.turn
        drop = 0.7 * (self.case.dome - 0.83)
        points = np.array([
            (-0.10, 0.40), (-0.155, 0.45), (-0.80 * r, 0.56), (-r, 0.69), (-0.95 * r, 0.80),
            (-0.72 * r, 0.89),
            (-0.3 * r, 0.96), (0.45 * left, 0.985), (0.82 * left, 0.95), (0.97 * left, 0.885), (left, 0.81),
            (0.93 * left, 0.71), (0.76 * left, 0.60), (0.20 + 0.27 * left, 0.50), (0.245, 0.435),
            (0.15, 0.39),
        ])  # fmt: skip
        points[:, 1] += drop * np.clip((points[:, 1] - 0.4) / 0.4, 0, 1)
        points[:, 0] += turn
        return smooth(points, 6, closed=True)

    def mediastinum(self) -> Points:
        """Outline of the vessels and soft tissue above the heart."""
        knob, turn = 0.19 + 0.07 * self.knob, self.case.turn
        points = np.array([
            (-0.17, -0.10), (-0.145, 0.05), (-0.14, 0.2), (-0.15, 0.33), (-0.165, 0.44), (-0.12, 0.56),
            (0.15, 0.56), (0.255, 0.46),
            (0.225, 0.40), (0.165, 0.35), (knob - 0.02, 0.31), (knob, 0.265), (knob - 0.035, 0.215),
            (0.13, 0.16), (0.14, 0.05), (0.17, -0.10),
        ])  # fmt: skip
        points[:, 0] += turn
        return smooth(points, 6, closed=True)

    def heart_edge(self, side: str, v: float) -> float:
        """Distance (``u`` >= 0) from the midline to the edge of the heart or mediastinum at ``v``."""
        edges = [0.14]
        for outline in (self.heart_outline(), self.mediastinum()):
            u = outline[:, 0] * self.sign(side)
            near = u[(np.abs(outline[:, 1] - v) < 0.035) & (u > 0)]
            if near.size:
                edges.append(float(near.max()))
        return max(edges)

    def lung_span(self, side: str) -> tuple[float, float]:
        """``v`` of apex and dome of one lung; its zones are equal thirds of this span."""
        return 0.0, self.domes[side].top

    def zone(self, side: str, zone: str) -> tuple[float, float]:
        """``v`` range of a zone ("upper", "mid", "lower")."""
        top, bottom = self.lung_span(side)
        i = ("upper", "mid", "lower").index(zone)
        step = (bottom - top) / 3
        return top + i * step, top + (i + 1) * step
