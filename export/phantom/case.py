# SPDX-License-Identifier: Apache-2.0
"""Sampling of phantom cases: which findings a film shows, and its body and exposure parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .labels import LABELS, SIDES, ZONES


@dataclass(frozen=True)
class Case:
    """Everything that decides how a phantom looks; equal cases give equal pictures.

    Lengths are in film widths (the film is 1 wide and ``aspect`` high). The chest frame has ``u`` across
    (0 midline, +1 the inner chest wall on the patient's left) and ``v`` down (0 lung apex, 1 costophrenic
    angle).
    """

    seed: int
    labels: frozenset[str]
    sex: str = "M"
    """"M" or "F"."""
    age: int = 60
    build: float = 0.5
    """0 slim to 1 heavy: soft tissue around the chest."""
    aspect: float = 1.15
    """Film height / width, 1.0 to 1.25."""
    centre_x: float = 0.5
    centre_y: float = 0.5
    """Centre of the chest, as fractions of film width and height."""
    half_width: float = 0.38
    """Half inner width of the chest, film widths."""
    lung_height: float = 0.74
    """Apex to costophrenic angle, film widths."""
    tilt: float = 0.0
    """Rotation in the film plane, degrees."""
    turn: float = 0.0
    """Rotation about the long axis: shift of the mediastinum in ``u``."""
    heart: float = 0.5
    """0 to 1: place of the cardiothoracic ratio inside its normal (or enlarged) range."""
    dome: float = 0.82
    """Height of the right dome (``v``) of a normal diaphragm."""
    dome_step: float = 0.02
    """How much lower (``v``) the normal left dome lies."""
    rib_contrast: float = 1.0
    vessel_contrast: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 1.0
    breasts: bool = False
    bubble: bool = False
    """Gastric air under the left dome."""
    collimation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Black borders (left, top, right, bottom) as fractions of the film."""
    marker: str = "R"
    """Laterality marker, "L", "R" or "" for none."""
    line_side: str = "right"
    """Side from which a central line enters."""
    view: str = "PA"


def _conflict_pairs() -> set[frozenset[str]]:
    pairs: set[frozenset[str]] = set()

    def add(first: str, *others: str) -> None:
        pairs.update(frozenset((first, other)) for other in others if other != first)

    lesions = [f"{kind}_{side}_{zone}" for kind in ("opacity", "nodule") for side in SIDES for zone in ZONES]
    for side in SIDES:
        own = [name for name in lesions if f"_{side}_" in name]
        small, large = f"effusion_{side}_small", f"effusion_{side}_large"
        air, raised = f"pneumothorax_{side}", f"elevated_hemidiaphragm_{side}"
        add(small, large, raised, air, f"opacity_{side}_lower")
        add(large, raised, air, *(name for name in own if not name.endswith("upper")))
        add(air, *own)
        add(raised, f"opacity_{side}_lower", f"nodule_{side}_lower", air)
        for kind in ("opacity", "nodule"):
            group = [name for name in own if name.startswith(kind)]
            for name in group:
                add(name, *group)
        for zone in ZONES:
            add(f"opacity_{side}_{zone}", f"nodule_{side}_{zone}")
        add("edema", air, *(name for name in own if name.startswith("opacity") or name.endswith("mid")))
    add("elevated_hemidiaphragm_left", "elevated_hemidiaphragm_right")
    add(
        "cardiomegaly",
        "effusion_left_large",
        "opacity_left_lower",
        "nodule_left_lower",
        "elevated_hemidiaphragm_left",
    )
    add("pacemaker", "opacity_left_upper", "nodule_left_upper")
    return pairs


CONFLICTS: frozenset[frozenset[str]] = frozenset(_conflict_pairs())
"""Pairs of labels that one film never shows together (one would hide the other)."""


def conflicts(labels: frozenset[str] | set[str]) -> list[frozenset[str]]:
    """The pairs among ``labels`` that exclude each other (empty when the set can be drawn)."""
    return [pair for pair in CONFLICTS if pair <= labels]


NORMAL_RATE = 0.18
_COUNTS = (0.22, 0.38, 0.40)
_DEVICE_RATE = {"endotracheal_tube": 0.085, "central_line": 0.055, "pacemaker": 0.10, "sternal_wires": 0.085}
_WEIGHT = {
    "cardiomegaly": 1.35,
    "edema": 1.6,
    "pneumothorax_left": 1.35,
    "pneumothorax_right": 1.35,
    "elevated_hemidiaphragm_left": 1.25,
    "opacity_left_mid": 1.15,
    "opacity_left_lower": 1.35,
    "nodule_left_lower": 1.15,
    "effusion_left_large": 1.15,
}
_WEIGHTS = np.array([_WEIGHT.get(name, 1.0) for name in LABELS[:22]])


def sample_labels(rng: np.random.Generator) -> frozenset[str]:
    """Draw labels without conflicts: about 18 % normal, else one to three findings; devices apart."""
    chosen: set[str] = set()
    if rng.random() >= NORMAL_RATE:
        for _ in range(1 + int(rng.choice(3, p=_COUNTS))):
            open_ = np.array([
                name not in chosen and not any(frozenset((name, other)) in CONFLICTS for other in chosen)
                for name in LABELS[:22]
            ])  # fmt: skip
            weights = _WEIGHTS * open_
            chosen.add(LABELS[int(rng.choice(22, p=weights / weights.sum()))])
    for name, rate in _DEVICE_RATE.items():
        if name == "central_line" and "endotracheal_tube" in chosen:
            rate = 0.45
        if rng.random() < rate and not any(frozenset((name, other)) in CONFLICTS for other in chosen):
            chosen.add(name)
    return frozenset(chosen)


def sample_case(rng: np.random.Generator, labels: frozenset[str] | None = None) -> Case:
    """Draw a case; ``labels`` fixes the label set.

    Raises
    ------
    ValueError
        When ``labels`` holds an unknown name or a pair that excludes each other.
    """
    chosen = sample_labels(rng) if labels is None else frozenset(labels)
    unknown = sorted(chosen - set(LABELS))
    if unknown:
        raise ValueError(f"unknown labels: {', '.join(unknown)}")
    clash = conflicts(chosen)
    if clash:
        raise ValueError(f"labels exclude each other: {' + '.join(sorted(clash[0]))}")

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    seed = int(rng.integers(1, 2**31))
    sex = "F" if rng.random() < 0.48 else "M"
    aspect = between(1.0, 1.25)
    half_width = between(0.365, 0.43)
    lung_height = min(half_width * between(1.72, 2.0), 0.79 * aspect)
    slack_x = 0.475 - half_width
    slack_y = 0.46 - 0.5 * lung_height / aspect
    border = rng.uniform(0.0, 0.03, 4) * (rng.random(4) < 0.6) if rng.random() < 0.35 else np.zeros(4)
    return Case(
        seed=seed,
        labels=chosen,
        sex=sex,
        age=int(rng.integers(22, 90)),
        build=between(0.0, 1.0),
        aspect=aspect,
        centre_x=0.5 + between(-1, 1) * min(slack_x, 0.035),
        centre_y=0.5 + between(-1, 1) * min(slack_y, 0.03) + 0.005,
        half_width=half_width,
        lung_height=lung_height,
        tilt=between(-3.5, 3.5),
        turn=between(-0.035, 0.035),
        heart=between(0, 1),
        dome=between(0.80, 0.855),
        dome_step=between(0.008, 0.035),
        rib_contrast=between(0.6, 1.25),
        vessel_contrast=between(0.7, 1.15),
        gamma=between(0.8, 1.3),
        contrast=between(0.88, 1.12),
        brightness=between(-0.03, 0.04),
        noise=between(0.4, 1.5),
        breasts=sex == "F" and rng.random() < 0.75,
        bubble=rng.random() < 0.55,
        collimation=tuple(float(b) for b in border),
        marker=str(rng.choice(["R", "L", ""], p=[0.45, 0.4, 0.15])),
        line_side="right" if "pacemaker" in chosen or rng.random() < 0.6 else "left",
        view="AP" if "endotracheal_tube" in chosen or rng.random() < 0.15 else "PA",
    )
