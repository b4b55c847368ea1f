# SPDX-License-Identifier: Apache-2.0
"""The rule-based labeller on hand-written sentences, truncated text, and the grammar's own texts."""

from __future__ import annotations

import numpy as np
import pytest
from edge_export.phantom.grammar import random_labels, write_findings
from edge_export.phantom.labeller import label
from edge_export.phantom.labels import LABELS

HARD: tuple[tuple[str, str], ...] = (
    # heart
    ("The heart is enlarged.", "cardiomegaly"),
    ("Heart size is normal without cardiomegaly.", ""),
    ("The heart is not enlarged.", ""),
    ("No cardiomegaly or pulmonary edema.", ""),
    ("The cardiac silhouette appears mildly enlarged.", "cardiomegaly"),
    ("Heart and mediastinal contours are not enlarged.", ""),
    ("Enlargement of the cardiac silhouette without overt edema.", "cardiomegaly"),
    ("The cardiothoracic ratio is increased.", "cardiomegaly"),
    ("The heart is at the upper limit of normal.", ""),
    ("No effusion, but the heart is enlarged.", "cardiomegaly"),
    ("No pleural effusion is seen and the heart is enlarged.", "cardiomegaly"),
    ("Left atrial enlargement.", ""),
    # effusion
    ("No left effusion; small right effusion.", "effusion_right_small"),
    ("No left effusion. Small right effusion.", "effusion_right_small"),
    (
        "Bilateral pleural effusions, small on the right and large on the left.",
        "effusion_right_small effusion_left_large",
    ),
    ("Large right and small left pleural effusions.", "effusion_right_large effusion_left_small"),
    ("Large right and left pleural effusions.", "effusion_right_large effusion_left_large"),
    ("There are small bilateral effusions.", "effusion_right_small effusion_left_small"),
    ("Moderate pleural effusion on the left.", "effusion_left_large"),
    ("Small to moderate right pleural effusion.", "effusion_right_small"),
    ("Moderate to large right pleural effusion.", "effusion_right_large"),
    ("Left pleural effusion, no right pleural effusion.", "effusion_left_small"),
    ("Blunting of the right costophrenic angle.", "effusion_right_small"),
    ("Both costophrenic angles are blunted.", "effusion_right_small effusion_left_small"),
    ("The left costophrenic angle is blunted, suggesting a trace effusion.", "effusion_left_small"),
    ("The costophrenic angles are sharp, without blunting.", ""),
    ("Pericardial effusion cannot be assessed; no pleural fluid.", ""),
    ("A massive left hydrothorax.", "effusion_left_large"),
    ("Bilateral pleural effusions, right greater than left.", "effusion_right_small effusion_left_small"),
    ("Right pleural effusion has resolved.", ""),
    ("A right, but not left, pleural effusion.", "effusion_right_small"),
    ("A small right but large left effusion.", "effusion_right_small effusion_left_large"),
    ("Effusions: small on the left, none on the right.", "effusion_left_small"),
    ("No change in the moderate left pleural effusion.", "effusion_left_large"),
    ("Small pleural effusion.", ""),
    ("Lungs: clear. Pleura: small left effusion. Heart: enlarged.", "effusion_left_small cardiomegaly"),
    ("Neither pleural effusion nor pneumothorax.", ""),
    ("Neither lung shows consolidation, but there is a trace left effusion.", "effusion_left_small"),
    ("A small left pleural effusion cannot be excluded.", "effusion_left_small"),
    # pneumothorax
    ("No pneumothorax on the left but a small right apical pneumothorax.", "pneumothorax_right"),
    ("No pneumothorax, small left effusion.", "effusion_left_small"),
    ("No effusion, pneumothorax, or consolidation.", ""),
    ("No pneumothorax and a small left pleural effusion.", "effusion_left_small"),
    ("Small left pneumothorax without effusion.", "pneumothorax_left"),
    ("Large right pleural effusion with no pneumothorax on either side.", "effusion_right_large"),
    ("Negative for pneumothorax.", ""),
    ("The lungs are free of consolidation, and there is a left-sided pneumothorax.", "pneumothorax_left"),
    ("Pneumothorax is not seen.", ""),
    ("Left pneumothorax is seen, right pneumothorax is not seen.", "pneumothorax_left"),
    ("Bilateral pneumothoraces.", "pneumothorax_left pneumothorax_right"),
    ("RIGHT HYDROPNEUMOTHORAX.", "pneumothorax_right effusion_right_small"),
    ("Pneumothorax is present on the right, none on the left.", "pneumothorax_right"),
    ("Apart from a small left apical pneumothorax, no abnormality.", "pneumothorax_left"),
    ("The left lung is clear and the right shows a small pneumothorax.", "pneumothorax_right"),
    ("There is no evidence of a left pneumothorax or of a right pleural effusion.", ""),
    # opacity
    ("Consolidation in the right upper and left lower zones.", "opacity_right_upper opacity_left_lower"),
    ("Patchy opacities in both lower zones.", "opacity_right_lower opacity_left_lower"),
    ("Bibasal consolidation.", "opacity_right_lower opacity_left_lower"),
    ("Left basal atelectasis rather than consolidation.", ""),
    ("Airspace opacity projecting over the right middle lobe.", "opacity_right_mid"),
    ("The right lung is clear, with left apical consolidation.", "opacity_left_upper"),
    (
        "Consolidation in the upper zone of the right lung and the lower zone of the left lung.",
        "opacity_right_upper opacity_left_lower",
    ),
    (
        "The left lung shows consolidation at the base and a small effusion.",
        "opacity_left_lower effusion_left_small",
    ),
    ("No consolidation in the left lower zone or right upper zone.", ""),
    ("Focal opacity at the left base with no effusion.", "opacity_left_lower"),
    ("Except for a right basal opacity, the lungs are clear.", "opacity_right_lower"),
    ("No focal opacity consistent with pneumonia in the right lower zone.", ""),
    ("Consolidation with air bronchograms in the left mid zone.", "opacity_left_mid"),
    ("Dense RLL consolidation; the left lung is clear.", "opacity_right_lower"),
    ("Right lower zone consolidation, left lung clear.", "opacity_right_lower"),
    (
        "No right upper zone consolidation, but there is patchy opacity at the right base.",
        "opacity_right_lower",
    ),
    ("The upper abdomen is normal, with no opacity at the left base.", ""),
    ("Retrocardiac opacity and a trace left effusion.", "opacity_left_lower effusion_left_small"),
    # nodule
    ("Well-circumscribed nodule over the right mid zone.", "nodule_right_mid"),
    ("A nodular opacity in the left apex.", "nodule_left_upper"),
    (
        "A nodule projects over the left base and consolidation is present in the right upper zone.",
        "nodule_left_lower opacity_right_upper",
    ),
    ("Right upper zone nodule and left basal consolidation.", "nodule_right_upper opacity_left_lower"),
    ("No nodule or mass in the right upper lobe.", ""),
    (
        "Nodules in the right upper and mid zones and the left lower zone.",
        "nodule_right_upper nodule_right_mid nodule_left_lower",
    ),
    (
        "Consolidation in the left lower zone and nodule in the right upper zone.",
        "opacity_left_lower nodule_right_upper",
    ),
    # edema, diaphragm
    ("Interstitial oedema with Kerley B lines.", "edema"),
    ("No interstitial oedema.", ""),
    ("Soft tissue edema of the left chest wall.", ""),
    ("Perihilar haze, in keeping with pulmonary oedema; no effusion.", "edema"),
    ("The right hemidiaphragm is elevated.", "elevated_hemidiaphragm_right"),
    ("Elevation of the left hemidiaphragm without effusion.", "elevated_hemidiaphragm_left"),
    ("Neither hemidiaphragm is elevated.", ""),
    ("No pneumothorax, and the left hemidiaphragm is raised.", "elevated_hemidiaphragm_left"),
    ("The right hemidiaphragm is higher than the left.", "elevated_hemidiaphragm_right"),
    ("Both hemidiaphragms are raised.", "elevated_hemidiaphragm_left elevated_hemidiaphragm_right"),
    # devices
    ("The endotracheal tube has been removed.", ""),
    ("ET tube and right internal jugular line in place.", "endotracheal_tube central_line"),
    ("No pacemaker, sternotomy wires or central venous catheter.", ""),
    ("Median sternotomy wires are intact and the heart is enlarged.", "sternal_wires cardiomegaly"),
    ("Dual-chamber pacemaker over the left chest wall without pneumothorax.", "pacemaker"),
    ("Tracheostomy tube in situ.", ""),
    ("Although the patient is intubated, the lungs are clear.", "endotracheal_tube"),
    ("Endotracheal tube ends above the carina; no central line is seen.", "endotracheal_tube"),
)


@pytest.mark.parametrize(("text", "expected"), HARD, ids=[text[:48] for text, _ in HARD])
def test_hard_sentence(text: str, expected: str) -> None:
    assert label(text) == frozenset(expected.split())


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_case_does_not_matter(change: object) -> None:
    for text, expected in HARD:
        assert label(change(text)) == frozenset(expected.split()), text  # type: ignore[operator]


def test_sentences_do_not_leak_into_each_other() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        picks = [HARD[int(i)] for i in rng.integers(len(HARD), size=3)]
        expected = set(" ".join(wanted for _, wanted in picks).split())
        for side in ("left", "right"):
            if f"effusion_{side}_large" in expected:
                expected.discard(f"effusion_{side}_small")
        assert label(" ".join(text for text, _ in picks)) == expected


@pytest.mark.parametrize("text", ["", " ", ".", "...", ",", "No", "with", "and, but;", "\n\n", "no . no", "0.5 1/2"])
def test_text_without_findings(text: str) -> None:
    assert label(text) == frozenset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The heart is enlarged. No pleural effusion or pneumo", "cardiomegaly"),
        ("The heart is enlarged. Small left pleural eff", "cardiomegaly"),
        ("The heart is enlarged. Consolidation in the right", "cardiomegaly"),
        ("The heart is enlarged. Small left pleural effusion", "cardiomegaly effusion_left_small"),
        ("No pneumothorax. The right hemidia", ""),
    ],
)
def test_truncated_last_sentence(text: str, expected: str) -> None:
    assert label(text) == frozenset(expected.split())


def test_truncation_never_invents_a_finding() -> None:
    rng = np.random.default_rng(6)
    for _ in range(25):
        wanted = random_labels(rng)
        text = write_findings(wanted, rng)
        # An effusion cut before its second side or size may still be read as small.
        loose = wanted | {name.replace("large", "small") for name in wanted}
        for cut in range(0, len(text), 7):
            assert label(text[:cut]) <= loose, text[:cut]


def test_grammar_round_trip() -> None:
    rng = np.random.default_rng(7)
    for _ in range(3000):
        wanted = random_labels(rng)
        text = write_findings(wanted, rng)
        assert label(text) == wanted, text


@pytest.mark.parametrize("name", LABELS)
def test_each_label_alone(name: str) -> None:
    rng = np.random.default_rng(LABELS.index(name))
    for _ in range(20):
        text = write_findings({name}, rng)
        assert label(text) == {name}, text
