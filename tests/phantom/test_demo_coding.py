# SPDX-License-Identifier: Apache-2.0
"""The demo model's table of coded findings: on the grammar's texts, on hand-written ones, and its codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from edge_export.phantom.case import sample_case
from edge_export.phantom.coding import coding_json
from edge_export.phantom.grammar import random_labels, write_findings
from edge_export.phantom.labels import LABELS
from test_labeller import HARD

import edge
from edge.bundle import DEMO
from edge.coding import CodingTable, Reading, parse_coding, read_sentences
from edge.text import sentence_spans


@pytest.fixture(scope="module")
def table() -> CodingTable:
    return parse_coding(coding_json(), LABELS)


def read(text: str, table: CodingTable) -> Reading:
    return read_sentences([text[a:b] for a, b in sentence_spans(text)], table)


def names(reading: Reading) -> set[str]:
    return {finding.label.name for finding in reading.findings}


def test_the_demo_bundle_holds_it() -> None:
    assert (DEMO / "coding.json").read_bytes() == coding_json()
    assert edge.Bundle.open(DEMO).coding_table() == parse_coding(coding_json(), LABELS)


def test_the_texts_it_is_made_for(table: CodingTable) -> None:
    """Every label of 600 texts, of cases as they are drawn and of any labels together; no other one, none unclear."""
    rng = np.random.default_rng(11)
    for number in range(600):
        wanted = random_labels(rng) if number % 2 else sample_case(np.random.default_rng(number)).labels
        text = write_findings(wanted, rng)
        reading = read(text, table)
        assert (names(reading), reading.left_out) == (set(wanted), 0), text


def test_hand_written_sentences(table: CodingTable) -> None:
    """Texts that it was not made for: it may miss what they say, but must not say what they do not."""
    found = wanted = 0
    for text, labels in HARD:
        expected, said = set(labels.split()), names(read(text, table))
        assert said <= expected, text
        found, wanted = found + len(said), wanted + len(expected)
    assert found >= 0.6 * wanted


@pytest.mark.parametrize("label", LABELS)
def test_every_label_has_codes(label: str, table: CodingTable) -> None:
    """Those with a scheme of DICOM's dictionary mean there what they mean here."""
    from pydicom.sr._concepts_dict import concepts  # type: ignore[attr-defined]

    entry = json.loads(coding_json())["labels"][label]
    codes = [entry["code"], *(part for e in entry["evaluations"] for part in (e["name"], e["value"]))]
    codes += [code for site in entry["sites"] for code in (site["place"], site["laterality"]) if code]
    own = {("8186001", "SCT")}  # SNOMED CT's cardiomegaly, which no context group of DICOM holds
    for value, scheme, meaning in codes:
        if (value, scheme) not in own:
            meanings = [known[value][0] for known in concepts[scheme].values() if value in known]
            assert meaning in meanings, (value, meanings)
