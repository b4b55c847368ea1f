# SPDX-License-Identifier: Apache-2.0
"""What others rely on in the JSON of a report."""

from __future__ import annotations

import math

CONTRACT = {
    "findings": str,
    "sentences": list,
    "token_ids": list,
    "logprobs": list,
    "stop_reason": str,
    "warnings": list,
    "model": dict,
    "input": dict,
    "timings_ms": dict,
    "tokens_per_s": float,
    "software": dict,
    "intended_use": str,
}


def check_contract(report: dict[str, object]) -> None:
    for key, kind in CONTRACT.items():
        assert isinstance(report[key], kind), key
    assert set(report["model"]) >= {"name", "bundle_sha256", "family", "precision", "bias_rows"}
    assert set(report["input"]) == {
        "sop_instance_uid",
        "study_instance_uid",
        "series_instance_uid",
        "modality",
        "view_position",
        "rows",
        "columns",
        "source",
    }
    stages = ["dicom", "preprocess", "vision", "first_token", "decode", "total"]
    assert list(report["timings_ms"]) == [*stages[:3], "prefill", *stages[3:]]
    assert report["timings_ms"]["prefill"] <= report["timings_ms"]["vision"]
    assert all(value >= 0 for value in report["timings_ms"].values())
    assert sum(report["timings_ms"][stage] for stage in stages[:-1]) <= report["timings_ms"]["total"] + 0.01
    assert set(report["software"]) >= {"version", "device", "isa"}
    assert len(report["token_ids"]) == len(report["logprobs"])
    assert all(value <= 0 for value in report["logprobs"])
    for sentence in report["sentences"]:
        assert set(sentence) == {"text", "confidence", "evidence"}
        assert sentence["text"] in report["findings"]
        assert 0 <= sentence["confidence"] <= 1
        evidence = sentence["evidence"]
        if evidence is None:
            continue
        rows, columns = evidence["grid"]
        assert [len(line) for line in evidence["heat"]] == [columns] * rows
        assert math.isclose(sum(map(sum, evidence["heat"])), 1.0, abs_tol=1e-3)
        row, column = evidence["peak"]
        assert evidence["heat"][row][column] == max(map(max, evidence["heat"]))
        x0, y0, x1, y1 = evidence["box"]
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
