# SPDX-License-Identifier: Apache-2.0
"""Options of ``edge-report``. Imports little but argparse, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from edge.cli.numbers import whole
from edge.cli.parser import Parser

PROG = "edge-report"
DICOM_OBJECTS = ("sr", "sr-tid1500")
OBJECTS = (*DICOM_OBJECTS, "fhir")
"""Formats that are one object per film."""

_EPILOG = """\
The report goes to stdout, everything else to stderr. Films are DICOM, PNG or JPEG files, not pipes: /dev/stdin is a
film where a file is redirected to it (< film.dcm), and refused (20) behind a pipe.

exit codes: 0 reported; 1 wrong usage; 20 cannot read, 21 not DICOM or a picture, 22 corrupt or truncated,
23 unsupported modality, 24 not a frontal chest film, 25 no pixel data, 26 pixels not taken, 27 transfer
syntax or its decoder missing; 30 bundle missing, damaged or of another format version; 40-59 cannot write;
80-99 processing; 130 interrupted, 141 nobody reads stdout any more. Several films: the worst.

Drafts are for research. This is not a medical device.
"""


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is no stdout, or it is closed
        return False


_positive = whole(1, 1 << 20)


def make_parser() -> argparse.ArgumentParser:
    """The parser. Wrong usage ends the process with exit code 1 and one line on stderr."""
    parser = Parser(
        prog=PROG,
        description="Draft the findings of frontal chest radiographs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="a DICOM, PNG or JPEG file")
    _add_results(parser.add_argument_group("what is written").add_argument)
    _add_films(parser.add_argument_group("the films").add_argument)
    _add_model(parser.add_argument_group("the model, and how it runs").add_argument)
    messages = parser.add_argument_group("messages, on stderr")
    messages.add_argument("--timings", action="store_true", help="one line of timings per film")
    loud = messages.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="no warnings (notices of a model stay)")
    loud.add_argument("-v", "--verbose", action="count", default=0, help="more; twice for more")
    parser.add_version()
    return parser


def _add_results(add: Callable[..., Any]) -> None:
    add(
        "--format",
        choices=("text", "json", *OBJECTS),
        default="text",
        help="default: text; sr: DICOM Basic Text SR; sr-tid1500: Comprehensive 3D SR with coded findings; fhir: R4"
        " DiagnosticReport; several films as json or fhir: one object per line, in json with the film's position, as a"
        " film that could not be reported has no line; docs/outputs.md explains what is in them",
    )
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="write the report there, whole or not at all; sr, sr-tid1500, fhir: or into a folder (several: always)",
    )
    add(
        "--overlay",
        metavar="PATH",
        help="write a picture: film, mask outline, where each sentence looked; .png, or .dcm for a DICOM Secondary"
        " Capture; several: NAME-1.png, ...",
    )
    add("--mask-dicom", metavar="PATH", help="write the lung and heart mask as DICOM Segmentation (.dcm)")
    add("--stream", action="store_true", help="print the text while it is written")


def _add_films(add: Callable[..., Any]) -> None:
    add(
        "--study",
        action="store_true",
        help="the films are one study: one report on all of them (models that look at several)",
    )
    add(
        "--context",
        action="append",
        default=[],
        metavar="[NAME=]TEXT",
        help="what the model reads first, for models that read something: the indication, an earlier report; @FILE"
        " instead of TEXT reads it from there; again for each name",
    )
    add(
        "--force",
        action="store_true",
        help="report in spite of a header that names another body part or view, or of a film that shows nothing",
    )


def _add_model(add: Callable[..., Any]) -> None:
    add("--bundle", metavar="DIR", help="the model (default: $EDGE_REPORT_BUNDLE, else the demo model)")
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "tensorrt"),
        help="cuda, tensorrt: this or an error; auto (default): a GPU where one can be used, else the CPU",
    )
    add("--threads", metavar="N", type=whole(1, 512), help="1 to 512; default: the physical cores this process may use")
    add(
        "--at-once",
        metavar="N",
        type=whole(1, 16),
        default=1,
        help="write the texts of so many films at once, 1 to 16: more films per minute, each of them later; the same"
        " texts (default: 1)",
    )
    add("--max-new-tokens", metavar="N", type=_positive, help="token cap (default: the bundle's)")
    add(
        "--bias-rows",
        choices=("all", "prefill", "none"),
        help="which rows get the anatomical bias (default: the bundle's)",
    )
    add(
        "--kv", choices=("fp32", "fp16", "int8"), help="type of the KV cache (default: the bundle's, else by precision)"
    )
    add(
        "--no-draft",
        action="store_true",
        help="write one token per pass: slower, the same tokens",
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check what argparse cannot."""
    parser = make_parser()
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if options.bundle == "":
        parser.error("--bundle is empty: name the model's folder")
    if options.output == "":
        parser.error("-o is empty: name a file")
    if options.output == "-":  # as other commands have it: stdout, and no file of that name
        options.output = None
    if options.stream and (options.format != "text" or options.output):
        parser.error("--stream prints text to stdout: it goes with no other --format and not with -o")
    if options.stream and options.at_once > 1:
        parser.error("--stream prints one text at a time: it does not go with --at-once")
    if options.overlay is not None and not options.overlay.lower().endswith((".png", ".dcm")):
        parser.error("--overlay must name a .png or .dcm file")
    if options.mask_dicom is not None and not options.mask_dicom.lower().endswith(".dcm"):
        parser.error("--mask-dicom must name a .dcm file")
    several = len(options.images) > 1 and not options.study
    if options.context and several:
        parser.error("--context is of one study: it does not go with several films, but with --study")
    if options.study and len(options.images) > 1 and (options.overlay or options.mask_dicom):
        parser.error("--overlay and --mask-dicom show one film: they do not go with a --study of several")
    if options.format in DICOM_OBJECTS and options.output is None and (several or _is_terminal()):
        parser.error(f"--format {options.format} is a DICOM file for each film: name it with -o (several: a folder)")
    return options
