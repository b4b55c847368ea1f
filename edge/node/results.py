# SPDX-License-Identifier: Apache-2.0
"""A report as the files that go to the receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.report import Report
    from edge.standard.filmheader import FilmHeader

PREFIX = {"sr": "SR", "sr-tid1500": "SR", "capture": "SC", "seg": "SEG"}


def make_objects(report: Report, header: FilmHeader, kinds: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
    """Kind of object to file name and content; a segmentation only where the model has a mask, coded findings only
    where the bundle says how they are coded.

    Names and content depend on the film, the bundle and the software alone, so that whatever is made twice is the same
    object (:mod:`edge.standard.identity`).

    Raises
    ------
    EdgeError
    """
    made: dict[str, tuple[str, bytes]] = {}
    for kind in kinds:
        if (kind == "seg" and report.mask is None) or (kind == "sr-tid1500" and report.coding is None):
            continue
        made[kind] = _make(kind, report, header)
    return made


def _make(kind: str, report: Report, header: FilmHeader) -> tuple[str, bytes]:
    if kind in PREFIX:
        from edge.standard.modules import to_file

        build = {
            "sr": report.to_sr,
            "sr-tid1500": report.to_coded_sr,
            "capture": report.to_secondary_capture,
            "seg": report.to_segmentation,
        }
        dataset = build[kind](header)
        return f"{PREFIX[kind]}.{dataset.SOPInstanceUID}.dcm", to_file(dataset)
    if kind == "fhir":
        from edge.standard.fhir import to_json

        resource = report.to_fhir(header)
        return f"DiagnosticReport.{resource['id']}.json", to_json(resource).encode() + b"\n"
    from edge.session import beside_notice

    name = f"report.{header.sop_instance_uid}"
    if kind == "json":
        return f"{name}.json", report.to_json(indent=2).encode() + b"\n"
    notice = f"[{report.notice}]\n" if report.notice else ""
    warnings = "".join(f"\nWarning: {warning}." for warning in beside_notice(report))
    return f"{name}.txt", f"{notice}{report.findings}\n{warnings}".rstrip("\n").encode() + b"\n"
