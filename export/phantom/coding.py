# SPDX-License-Identifier: Apache-2.0
"""The demo model's table of coded findings, ``coding.json`` of its bundle: how its texts name the phantoms' labels, and
SNOMED CT and DICOM codes for them. Codes are those of PS3.16's context groups where these have one (chest CAD findings,
CID 6102 and 6104; places, CID 6171; sizes, CID 6118)."""

from __future__ import annotations

import json
from typing import Any

from .labels import LABELS, SIDES, ZONES

Coded = list[str]

LUNG: Coded = ["39607008", "SCT", "Lung"]
HEART: Coded = ["80891009", "SCT", "Heart"]
PLEURA: Coded = ["3120008", "SCT", "Pleura"]
DIAPHRAGM: Coded = ["5798000", "SCT", "Diaphragm"]
PLACES: dict[str, Coded] = {
    "upper": ["281392002", "SCT", "Upper zone of lung"],
    "mid": ["281393007", "SCT", "Middle zone of lung"],
    "lower": ["281394001", "SCT", "Lower zone of lung"],
}
LATERALITY: dict[str, Coded] = {"right": ["24028007", "SCT", "Right"], "left": ["7771000", "SCT", "Left"]}
SIZE: Coded = ["112025", "DCM", "Size Descriptor"]
SIZES: dict[str, Coded] = {"small": ["255507004", "SCT", "Small"], "large": ["255509001", "SCT", "Large"]}

EFFUSION: Coded = ["60046008", "SCT", "Pleural effusion"]
PNEUMOTHORAX: Coded = ["36118008", "SCT", "Pneumothorax"]
OPACITY: Coded = ["112001", "DCM", "Opacity"]
NODULE: Coded = ["27925004", "SCT", "Nodule"]
ELEVATED: Coded = ["75540009", "SCT", "Elevated"]
ALONE: dict[str, tuple[Coded, Coded | None]] = {
    "cardiomegaly": (["8186001", "SCT", "Cardiomegaly"], HEART),
    "edema": (["19242006", "SCT", "Pulmonary edema"], LUNG),
    "endotracheal_tube": (["26412008", "SCT", "Endotracheal tube"], None),
    "central_line": (["112174", "DCM", "Central line"], None),
    "pacemaker": (["14106009", "SCT", "Cardiac pacemaker"], None),
    "sternal_wires": (["27065002", "SCT", "Suture"], ["56873002", "SCT", "Sternum"]),
}

_HEARTS = ("heart", "heart size", "cardiac silhouette", "cardiac size", "heart shadow")
_LARGE = ("enlarged", "increased", "dilated")
PHRASES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "cardiomegaly",
        "cardiac enlargement",
        "enlarged heart",
        "enlarged cardiac silhouette",
        "enlargement of the heart",
        *(f"{heart} .. {large}" for heart in _HEARTS for large in _LARGE),
    ),
    "edema": (
        *(
            f"{kind}{word}"
            for kind in ("", "interstitial ", "pulmonary ", "interstitial pulmonary ", "alveolar ")
            for word in ("edema", "oedema")
        ),
        "perihilar haze",
        "kerley lines",
        "kerley b lines",
        "septal thickening",
        "septal lines",
    ),
    "effusion": (
        "effusion",
        "effusions",
        "pleural effusion",
        "pleural effusions",
        "pleural fluid",
        "blunting .. costophrenic angle",
        "blunting .. costophrenic angles",
        "blunted costophrenic angle",
    ),
    "pneumothorax": ("pneumothorax", "pneumothoraces"),
    "opacity": (
        "consolidation",
        "consolidations",
        "opacity",
        "opacities",
        "airspace opacity",
        "airspace opacities",
        "airspace shadowing",
        "opacification",
        "infiltrate",
        "infiltrates",
    ),
    "nodule": (
        "nodule",
        "nodules",
        "nodular density",
        "nodular densities",
        "nodular opacity",
        "nodular opacities",
        "rounded opacity",
        "mass",
        "masses",
    ),
    "elevated_hemidiaphragm": (
        "elevated .. hemidiaphragm",
        "raised .. hemidiaphragm",
        "elevation of .. hemidiaphragm",
        "elevation of .. hemidiaphragms",
        *(
            f"{one} {be} {word}"
            for one, be in (("hemidiaphragm", "is"), ("hemidiaphragms", "are"))
            for word in ("elevated", "raised", "high")
        ),
    ),
    "endotracheal_tube": ("endotracheal tube", "et tube", "tracheal tube"),
    "central_line": ("central line", "central venous line", "central venous catheter", "central catheter"),
    "pacemaker": ("pacemaker", "cardiac pacemaker", "pacemaker leads"),
    "sternal_wires": ("sternal wires", "sternotomy wires", "median sternotomy wires"),
}
IGNORED = (
    "pericardial effusion",
    "joint effusion",
    "mass effect",
    "soft tissue edema",
    "subcutaneous edema",
    "upper mediastinum",
    "upper abdomen",
    "upper limit",
    "upper limits",
    "lower limit",
    "lower limits",
    "tracheostomy tube",
)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "effusion": ("side", "size"),
    "pneumothorax": ("side",),
    "opacity": ("side", "zone"),
    "nodule": ("side", "zone"),
    "elevated_hemidiaphragm": ("side",),
}
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "side": {
        **{side: (side,) for side in SIDES},
        **dict.fromkeys(("both", "bilateral", "bilaterally"), SIDES),
    },
    "zone": {
        **dict.fromkeys(("upper", "apical", "apex", "apices"), ("upper",)),
        **dict.fromkeys(("mid", "middle", "perihilar"), ("mid",)),
        **dict.fromkeys(("lower", "base", "bases", "basal", "basilar"), ("lower",)),
    },
    "size": {
        **dict.fromkeys(("small", "trace", "tiny", "minor", "mild", "slight", "minimal"), ("small",)),
        **dict.fromkeys(("large", "moderate", "massive", "sizable", "extensive"), ("large",)),
    },
}
NEGATION = {
    "before": ["no", "not", "none", "nil", "without", "neither", "nor", "free of", "clear of", "absence of",
               "removal of", "resolution of", "negative for", "rather than"],
    "after": ["not seen", "not present", "not identified", "no longer", "absent", "excluded", "ruled out", "resolved",
              "removed", "unlikely"],
    "ends": ["but", "however", "although", "though", "whereas", ";", "and there is", "and there are", ", there is",
             ", there are"],
}  # fmt: skip
HEDGES = ["possible", "possibly", "probable", "suspected", "questionable", "may", "might", "could", "cannot", "or"]
VERBS = ["is", "are", "was", "were", "remains", "appears", "shows", "has", "clear", "normal", "unremarkable", "there"]


def coding_table() -> dict[str, Any]:
    """The table as ``edge.coding.table.parse_coding`` reads it."""
    return {
        "coding_version": 1,
        "language": "en",
        "negation": NEGATION,
        "hedges": HEDGES,
        "verbs": VERBS,
        "ignored": list(IGNORED),
        "attributes": {name: {"words": words, "exclusive": name == "size"} for name, words in WORDS.items()},
        "findings": {
            name: {
                "phrases": list(phrases),
                "attributes": list(ATTRIBUTES.get(name, ())),
                "default": {"size": "small"} if name == "effusion" else {},
            }
            for name, phrases in PHRASES.items()
        },
        "labels": {name: _label(name) for name in LABELS},
    }


def coding_json() -> bytes:
    """The table as the bytes of ``coding.json``."""
    return json.dumps(coding_table(), indent=1).encode() + b"\n"


def _label(name: str) -> dict[str, Any]:
    if name in ALONE:
        code, place = ALONE[name]
        return _entry(name, {}, code, [] if place is None else [_site(place, None)])
    kind, _, rest = name.partition("_")
    first, _, second = rest.partition("_")
    if kind == "effusion":
        sized = [{"name": SIZE, "value": SIZES[second]}]
        return _entry(kind, {"side": first, "size": second}, EFFUSION, [_site(PLEURA, first)], sized)
    if kind == "pneumothorax":
        return _entry(kind, {"side": first}, PNEUMOTHORAX, [_site(PLEURA, first)])
    if kind == "elevated":
        return _entry("elevated_hemidiaphragm", {"side": second}, ELEVATED, [_site(DIAPHRAGM, second)])
    assert kind in ("opacity", "nodule")
    assert second in ZONES
    return _entry(
        kind, {"side": first, "zone": second}, OPACITY if kind == "opacity" else NODULE, [_site(PLACES[second], first)]
    )


def _site(place: Coded, side: str | None) -> dict[str, Any]:
    return {"place": place, "laterality": None if side is None else LATERALITY[side]}


def _entry(
    finding: str, values: dict[str, str], code: Coded, sites: list[Any], evaluations: list[Any] | None = None
) -> dict[str, Any]:
    return {"finding": finding, "values": values, "code": code, "sites": sites, "evaluations": evaluations or []}
