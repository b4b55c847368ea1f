# SPDX-License-Identifier: Apache-2.0
"""The label set of the phantoms, in the order every vector of labels uses."""

LABELS: tuple[str, ...] = (
    "cardiomegaly",
    "effusion_left_small",
    "effusion_left_large",
    "effusion_right_small",
    "effusion_right_large",
    "pneumothorax_left",
    "pneumothorax_right",
    "opacity_right_upper",
    "opacity_right_mid",
    "opacity_right_lower",
    "opacity_left_upper",
    "opacity_left_mid",
    "opacity_left_lower",
    "nodule_right_upper",
    "nodule_right_mid",
    "nodule_right_lower",
    "nodule_left_upper",
    "nodule_left_mid",
    "nodule_left_lower",
    "edema",
    "elevated_hemidiaphragm_left",
    "elevated_hemidiaphragm_right",
    "endotracheal_tube",
    "central_line",
    "pacemaker",
    "sternal_wires",
)
"""Every label. Sides are the patient's (the patient's right is on the image's left)."""

DEVICES: tuple[str, ...] = LABELS[22:]
"""Support devices: a film with nothing else still has no acute finding."""

FINDINGS: tuple[str, ...] = LABELS[:22]
"""Labels that are findings; a film with none of them is normal."""

ZONES: tuple[str, ...] = ("upper", "mid", "lower")
SIDES: tuple[str, ...] = ("right", "left")


def is_normal(labels: frozenset[str] | set[str]) -> bool:
    """Whether no finding (devices do not count) is among ``labels``."""
    return not any(name in labels for name in FINDINGS)
