# SPDX-License-Identifier: Apache-2.0
"""Vocabularies: transfer syntaxes, SOP classes, modalities (DICOM PS3.4, PS3.6, PS3.3 C.7.3.1.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
RLE = "1.2.840.10008.1.2.5"

Codec = Literal["", "raw", "zlib", "rle", "jpeg", "jpegls", "j2k", "none"]


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax: its name, the codec of its pixels and the packages that decode them.

    `codec` is "" for native pixels and "none" where no decoder exists for this package.
    `packages` are pairs (importable module, package to install); any one of them will do.
    """

    name: str
    codec: Codec = ""
    packages: tuple[tuple[str, str], ...] = ()


_PILLOW = ("PIL", "pillow")
_GDCM = ("gdcm", "python-gdcm")
_JLS = ("jpeg_ls", "pyjpegls")
_RLE = ("rle", "pylibjpeg-rle")
_OPJ = ("openjpeg", "pylibjpeg-openjpeg")
_JPEG = "1.2.840.10008.1.2.4."

SYNTAXES: dict[str, Syntax] = {
    IMPLICIT_LE: Syntax("Implicit VR Little Endian"),
    EXPLICIT_LE: Syntax("Explicit VR Little Endian"),
    EXPLICIT_BE: Syntax("Explicit VR Big Endian"),
    DEFLATED: Syntax("Deflated Explicit VR Little Endian"),
    ENCAPSULATED_UNCOMPRESSED: Syntax("Encapsulated Uncompressed Explicit VR Little Endian", "raw"),
    DEFLATED_IMAGE_FRAME: Syntax("Deflated Image Frame Compression", "zlib"),
    RLE: Syntax("RLE Lossless", "rle", (_RLE, _GDCM)),
    _JPEG + "50": Syntax("JPEG Baseline (Process 1)", "jpeg", (_GDCM, _PILLOW)),
    _JPEG + "51": Syntax("JPEG Extended (Process 2 and 4)", "jpeg", (_GDCM, _PILLOW)),
    _JPEG + "57": Syntax("JPEG Lossless (Process 14)", "jpeg", (_GDCM,)),
    _JPEG + "70": Syntax("JPEG Lossless (Process 14, SV1)", "jpeg", (_GDCM,)),
    _JPEG + "80": Syntax("JPEG-LS Lossless", "jpegls", (_JLS, _GDCM)),
    _JPEG + "81": Syntax("JPEG-LS Near-lossless", "jpegls", (_JLS, _GDCM)),
    _JPEG + "90": Syntax("JPEG 2000 Lossless", "j2k", (_OPJ, _GDCM)),
    _JPEG + "91": Syntax("JPEG 2000", "j2k", (_OPJ, _GDCM)),
    _JPEG + "201": Syntax("High-Throughput JPEG 2000 Lossless", "j2k", (_OPJ,)),
    _JPEG + "202": Syntax("High-Throughput JPEG 2000 RPCL Lossless", "j2k", (_OPJ,)),
    _JPEG + "203": Syntax("High-Throughput JPEG 2000", "j2k", (_OPJ,)),
    # Known, and not taken.
    _JPEG + "92": Syntax("JPEG 2000 Part 2 Lossless", "none"),
    _JPEG + "93": Syntax("JPEG 2000 Part 2", "none"),
    _JPEG + "94": Syntax("JPIP Referenced", "none"),
    _JPEG + "95": Syntax("JPIP Referenced Deflate", "none"),
    _JPEG + "204": Syntax("JPIP HTJ2K Referenced", "none"),
    _JPEG + "205": Syntax("JPIP HTJ2K Referenced Deflate", "none"),
    _JPEG + "110": Syntax("JPEG XL Lossless", "none"),
    _JPEG + "111": Syntax("JPEG XL JPEG Recompression", "none"),
    _JPEG + "112": Syntax("JPEG XL", "none"),
    **{_JPEG + n: Syntax("MPEG2 video", "none") for n in ("100", "100.1", "101", "101.1")},
    **{
        _JPEG + n: Syntax("MPEG-4 AVC/H.264 video", "none")
        for n in ("102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106", "106.1")
    },
    **{_JPEG + n: Syntax("HEVC/H.265 video", "none") for n in ("107", "108")},
    "1.2.840.10008.1.2.6.1": Syntax("RFC 2557 MIME encapsulation", "none"),
    "1.2.840.10008.1.2.6.2": Syntax("XML Encoding", "none"),
    "1.2.840.10008.1.2.7.1": Syntax("SMPTE ST 2110-20 uncompressed video", "none"),
    "1.2.840.10008.1.2.7.2": Syntax("SMPTE ST 2110-20 uncompressed video", "none"),
    "1.2.840.10008.1.2.7.3": Syntax("SMPTE ST 2110-30 audio", "none"),
}

TAKEN_MODALITIES = ("CR", "DX", "DR", "RG", "RF")

MODALITIES: dict[str, str] = {
    "CT": "computed tomography", "MR": "magnetic resonance", "US": "ultrasound", "MG": "mammography",
    "NM": "nuclear medicine", "PT": "positron emission tomography", "XA": "X-ray angiography",
    "IO": "intra-oral radiograph", "PX": "panoramic X-ray", "SR": "structured report", "DOC": "document",
    "PR": "presentation state", "KO": "key object selection", "SEG": "segmentation", "REG": "registration",
    "RTIMAGE": "radiotherapy image", "RTDOSE": "radiotherapy dose", "RTSTRUCT": "radiotherapy structure set",
    "RTPLAN": "radiotherapy plan", "RTRECORD": "radiotherapy record", "ES": "endoscopy",
    "XC": "external-camera photography", "GM": "general microscopy", "SM": "slide microscopy",
    "OP": "ophthalmic photography", "OT": "other", "ECG": "electrocardiography", "HD": "haemodynamics",
    "BMD": "bone densitometry", "BDUS": "ultrasound bone densitometry", "DG": "diaphanography",
    "IVUS": "intravascular ultrasound", "OCT": "optical coherence tomography", "PLAN": "plan",
    "AU": "audio", "FID": "fiducials", "M3D": "3D model", "SC": "secondary capture", "TG": "thermography",
    "LS": "laser surface scan", "OPT": "ophthalmic tomography", "ANN": "annotation",
}  # fmt: skip

_SOP = "1.2.840.10008.5.1.4.1.1."
SECONDARY_CAPTURE = tuple(_SOP + "7" + s for s in ("", ".1", ".2", ".3", ".4"))
MODALITY_OF_CLASS = {_SOP + "1": "CR", _SOP + "1.1": "DX", _SOP + "1.1.1": "DX", _SOP + "12.2": "RF"}
"""Radiograph classes, and the modality that is meant where the file does not name one."""

RAW_DX = _SOP + "1.1.1"
"""Digital X-Ray Image Storage - For Processing."""

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"

OTHER_CLASSES: tuple[tuple[str, str], ...] = (
    # (UID or UID prefix ending in a dot, what it is); the longest match wins
    (DICOMDIR_CLASS, "a DICOMDIR, an index of other files"),
    (_SOP + "1.2", "a mammogram"), (_SOP + "1.2.1", "a mammogram"),
    (_SOP + "1.3", "an intra-oral radiograph"), (_SOP + "1.3.1", "an intra-oral radiograph"),
    (_SOP + "2", "a CT image"), (_SOP + "2.", "a CT image"),
    (_SOP + "3.", "an ultrasound image"), (_SOP + "6.", "an ultrasound image"),
    (_SOP + "4", "an MR image"), (_SOP + "4.", "an MR image"),
    (_SOP + "9.", "a waveform"), (_SOP + "11.", "a presentation state"),
    (_SOP + "12.1", "an X-ray angiogram"), (_SOP + "12.1.", "an X-ray angiogram"),
    (_SOP + "13.", "a tomosynthesis or 3D X-ray image"), (_SOP + "14.", "an intravascular image"),
    (_SOP + "20", "a nuclear medicine image"), (_SOP + "30", "a parametric map"),
    (_SOP + "66", "raw data"), (_SOP + "66.", "a segmentation, registration or fiducials object"),
    (_SOP + "67", "a real-world value mapping"), (_SOP + "68.", "a surface"),
    (_SOP + "77.", "a visible-light picture"), (_SOP + "78.", "an eye measurement"),
    (_SOP + "88.", "a structured report"),
    (_SOP + "88.59", "a key object selection"),
    (_SOP + "104.", "an encapsulated document"), (_SOP + "104.1", "an encapsulated PDF"),
    (_SOP + "128", "a PET image"), (_SOP + "128.", "a PET image"), (_SOP + "130", "a PET image"),
    (_SOP + "131", "structured display"),
    (_SOP + "481.", "a radiotherapy object"), (_SOP + "481.1", "a radiotherapy image"),
    (_SOP + "501.", "a security scan"),
    ("1.2.840.10008.5.1.4.34.", "a radiotherapy or workflow object"),
    ("1.2.840.10008.5.1.4.31", "a worklist object"),
    ("1.2.840.10008.3.1.", "a management object"),
    ("1.2.840.10008.5.1.4.38.", "a hanging protocol"), ("1.2.840.10008.5.1.4.39.", "a colour palette"),
)  # fmt: skip


def class_name(uid: str) -> str:
    """What a SOP class outside radiography is, in words; empty for radiographs and unknown classes."""
    best = ("", "")
    for key, words in OTHER_CLASSES:
        hit = uid.startswith(key) if key.endswith(".") else uid == key
        if hit and len(key) > len(best[0]):
            best = (key, words)
    return best[1]
