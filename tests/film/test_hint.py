# SPDX-License-Identifier: Apache-2.0
"""The first glance at a film, and the worker that is started on the strength of it."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from encoders import JPEG, j2k, jpeg_baseline, jpeg_ls, rle
from film_builder import bare, compressed, film, gradient, to_bytes
from PIL import Image

from edge.film.hint import likely_codec
from edge.film.sandbox import Sandbox

EIGHT = gradient(bits=8)


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(EIGHT.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "codec"),
    [
        (lambda: to_bytes(film()), ""),
        (lambda: to_bytes(rle(EIGHT, 8)), "rle"),
        (lambda: to_bytes(compressed(jpeg_baseline(EIGHT), JPEG + "50", EIGHT, bits=8)), "jpeg"),
        (lambda: to_bytes(compressed(jpeg_ls(gradient(), 12), JPEG + "80", gradient())), "jpegls"),
        (lambda: to_bytes(compressed(j2k(gradient(), 12), JPEG + "90", gradient())), "j2k"),
        (lambda: bare(film()), ""),
        (png, "picture"),
        (lambda: b"", ""),
        (lambda: b"%PDF-1.7", ""),
        (lambda: bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x40\x00" + b"9" * 64, ""),
        (lambda: os.urandom(4096), ""),
    ],
)
def test_guess(tmp_path: Path, data, codec: str) -> None:
    (tmp_path / "film").write_bytes(data())
    assert likely_codec(str(tmp_path / "film")) == codec


def test_nothing_is_refused_here(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", "\0"):
        assert likely_codec(str(path)) == ""


@pytest.mark.skipif(os.name != "posix", reason="process ids of POSIX systems")
@pytest.mark.parametrize("codec", ["jpegls", "picture", "no such codec", ""])
def test_a_worker_begun_early(codec: str) -> None:
    """It is started without waiting, and is the one that decodes, whatever it was begun for."""
    sandbox = Sandbox()
    try:
        begin = time.monotonic()
        sandbox.begin(codec)
        assert time.monotonic() - begin < 1.0
        pid = sandbox.pid
        assert pid is not None
        pixels = gradient()
        fields = {
            "op": "dicom", "syntax": JPEG + "80", "codec": "jpegls", "frame": -1, "rows": pixels.shape[0],
            "columns": pixels.shape[1], "allocated": 16, "stored": 12, "bits": 12, "signed": 0,
        }  # fmt: skip
        _, data = sandbox.run(fields, jpeg_ls(pixels, 12), pixels=pixels.size)
        assert np.array_equal(np.frombuffer(data, "<u2").reshape(pixels.shape), pixels)
        assert sandbox.pid == pid
    finally:
        sandbox.close()
