# SPDX-License-Identifier: Apache-2.0
"""Tables of coded findings: hostile ones, and what is read in sentences with a small good one."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from handmade import CODING, chest_picture, make_bundle

import edge
from edge.coding import CodingTable, parse_coding, read_sentence, read_sentences

LABELS = list(CODING["labels"])


@pytest.fixture(scope="module")
def table() -> CodingTable:
    return parse_coding(json.dumps(CODING).encode(), LABELS)


def refused(change: dict[str, Any], labels: list[str] = LABELS) -> str:
    """The one line with which a table is refused; keys of `change` are paths."""
    spoilt = copy.deepcopy(CODING)
    for path, value in change.items():
        *way, last = path.split("/")
        place = spoilt
        for key in way:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
    with pytest.raises(edge.BundleError) as caught:
        parse_coding(json.dumps(spoilt).encode(), labels)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 300
    return message


LABEL = "labels/big_heart"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coding_version": 2}, "version 2"),
        ({"novelty": 1}, "unknown keys ('novelty')"),
        ({"negation/novelty": 1}, "unknown keys ('novelty')"),
        ({f"{LABEL}/novelty": 1}, "unknown keys ('novelty')"),
        ({"hedges": None}, "hedges"),
        ({"language": "fr"}, "language"),
        ({"hedges": ["May"]}, "small letters"),
        ({"hedges": ["(a+)+$"]}, "small letters"),
        ({"hedges": ["may .. be"]}, "small letters"),
        ({"hedges": [""]}, "small letters"),
        ({"hedges": [" ".join(["a"] * 13)]}, "small letters"),
        ({"findings/effusion/phrases": [".. effusion"]}, "small letters"),
        ({"findings/effusion/phrases": ["a .. b .. c"]}, "small letters"),
        ({"findings/effusion/phrases": [f"a{i}" for i in range(4097)]}, "phrases"),
        ({"findings/effusion/attributes": ["side", "colour"]}, "attributes"),
        ({"findings/effusion/attributes": ["side", "side"]}, "attributes"),
        ({"findings/effusion/default": {"colour": "red"}}, "default"),
        ({"findings": {}}, "1 to 256"),
        ({"attributes/side/words": {"Left!": ["left"]}}, "plain word"),
        ({"attributes/side/words": {"left": []}}, "list of values"),
        ({"attributes/side/exclusive": 1}, "exclusive"),
        ({f"{LABEL}/finding": "heart attack"}, "finding"),
        ({f"{LABEL}/values": {"side": "left"}}, "values"),
        ({"labels/small_left_effusion/values": {"side": "left", "size": "tiny"}}, "values"),
        ({"labels/small_left_effusion/values": {"side": "left", "size": "large"}}, "the same finding"),
        ({f"{LABEL}/code": ["1", "SCT"]}, "no code"),
        ({f"{LABEL}/code": ["1" * 17, "SCT", "x"]}, "no code"),
        ({f"{LABEL}/code": ["1", "S C", "x"]}, "no code"),
        ({f"{LABEL}/code": ["1", "SCT", "x" * 65]}, "no code"),
        ({f"{LABEL}/code": ["1", "SCT", "x\\y"]}, "no code"),
        ({f"{LABEL}/code": ["1", "SCT", "x\x1b[2J"]}, "no code"),
        ({f"{LABEL}/sites": [{"place": ["1", "SCT", "x"]}]}, "laterality"),
        ({f"{LABEL}/evaluations": [5]}, "must be an object"),
    ],
)
def test_a_wrong_table_is_refused(change: dict[str, Any], words: str) -> None:
    assert words in refused(change)


def test_labels_are_the_manifests() -> None:
    assert "not one of the manifest's labels" in refused({}, LABELS[1:])


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}'])
def test_what_is_no_table(data: bytes) -> None:
    with pytest.raises(edge.BundleError, match="coding"):
        parse_coding(data, LABELS)


@pytest.mark.parametrize("value", [None, True, "1", 1.5, -1, [], {}, [1], "\x1b[2J", ["a", "b", "c"]])
def test_no_value_of_a_wrong_type_passes(value: Any) -> None:
    """Whatever stands in whatever place: a bundle error or a good table, never another exception."""

    def places(section: Any, path: tuple[Any, ...] = ()) -> Any:
        for key in section if isinstance(section, dict) else range(len(section)):
            yield (*path, key)
            if isinstance(section[key], (dict, list)):
                yield from places(section[key], (*path, key))

    for path in places(CODING):
        spoilt = copy.deepcopy(CODING)
        place: Any = spoilt
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with contextlib.suppress(edge.BundleError):
            parse_coding(json.dumps(spoilt).encode(), LABELS)


def names(text: str, table: CodingTable) -> list[str]:
    return [label.name for label in read_sentence(text, table)[0]]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Cardiomegaly.", "big_heart"),
        ("The HEART is mildly enlarged.", "big_heart"),
        ("The heart is not seen, the aorta is enlarged.", ""),
        ("No cardiomegaly.", ""),
        ("Cardiomegaly is not seen.", ""),
        ("Possible cardiomegaly.", ""),
        ("No effusion but cardiomegaly.", "big_heart"),
        ("Small left effusion.", "small_left_effusion"),
        ("Left-sided effusion.", "small_left_effusion"),
        ("Large effusion on the right.", "large_right_effusion"),
        ("Large right and small left effusions.", "large_right_effusion small_left_effusion"),
        ("Large effusion in both hemithoraces.", "large_left_effusion large_right_effusion"),
        ("Large effusion on the left and cardiomegaly.", "large_left_effusion big_heart"),
        ("Small right effusion without cardiomegaly.", "small_right_effusion"),
        ("A small left pericardial effusion.", ""),
        ("The left lung is clear and a large right effusion.", "large_right_effusion"),
        ("Large effusion on the left, none on the right.", "large_left_effusion"),
    ],
)
def test_reading(text: str, labels: str, table: CodingTable) -> None:
    assert names(text, table) == labels.split()


@pytest.mark.parametrize("text", ["Large effusion.", "Small to large left effusion.", "Small left, large effusion."])
def test_what_is_not_clear_is_counted_and_not_guessed(text: str, table: CodingTable) -> None:
    assert read_sentence(text, table) == ([], 1)


def test_each_label_once_and_where_it_was_said_first(table: CodingTable) -> None:
    reading = read_sentences(["No effusion.", "Cardiomegaly.", "Enlarged heart with cardiomegaly.", "Effusion."], table)
    assert [(f.label.name, f.sentence) for f in reading.findings] == [("big_heart", 1)]
    assert reading.left_out == 1


def test_a_hostile_text_takes_no_time(table: CodingTable) -> None:
    begin = time.process_time()
    for word in ("heart ", "effusion ", "no ", "left right ", ", "):
        read_sentence(word * 100_000, table)
    assert time.process_time() - begin < 3


def test_a_report_of_a_bundle_with_a_table(tmp_path: Path) -> None:
    """The table comes with the report, is no part of the JSON, and reads what a person writes, too."""
    picture = chest_picture()
    report = edge.load(make_bundle(tmp_path / "coded", coding=CODING), threads=1).report(picture)
    assert report.coded().findings == ()
    edited = report.with_text(["The heart is enlarged."])
    assert [finding.label.name for finding in edited.coded().findings] == ["big_heart"]
    plain = edge.load(make_bundle(tmp_path / "plain"), threads=1).report(picture)
    assert list(plain.to_dict()) == list(report.to_dict())
    with pytest.raises(edge.NotCoded, match="does not say how its findings are coded"):
        plain.coded()


def test_a_bad_table_ends_the_load(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", coding=CODING | {"language": "fr"})
    with pytest.raises(edge.BundleError, match="language"):
        edge.load(bundle, threads=1)
