# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the film tests."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from film_builder import MARKER, to_bytes
from film_privacy import check_private
from pydicom.dataset import Dataset

from edge.errors import EdgeError
from edge.film import Film, read_film


@pytest.fixture(autouse=True)
def nothing_leaks(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """In every test: no patient data and no warning reaches stderr, stdout, the logs or the warnings."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    out, err = capfd.readouterr()
    told = out + err + caplog.text + "".join(str(w.message) for w in caught)
    assert MARKER not in told
    assert "ZZSECRET" not in told


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Film]:
    """``read(dataset or bytes)``: written to a file and read from there."""

    def run(source: Dataset | bytes, **options: Any) -> Film:
        path = tmp_path / "film.dcm"
        path.write_bytes(source if isinstance(source, bytes) else to_bytes(source))
        try:
            film = read_film(path, **options)
        except EdgeError as error:
            check_private(error)
            raise
        assert "ZZSECRET" not in repr(film) + repr(film.warnings) + repr(film.meta)
        return film

    return run


@pytest.fixture
def refused(read: Callable[..., Film]) -> Callable[..., EdgeError]:
    """``refused(source, ErrorClass)``: reading raises exactly that class; returns the error."""

    def run(source: Dataset | bytes, kind: type[EdgeError], **options: Any) -> EdgeError:
        with pytest.raises(EdgeError) as caught:
            read(source, **options)
        assert type(caught.value) is kind, f"{type(caught.value).__name__}: {caught.value}"
        assert "\n" not in str(caught.value)
        return caught.value

    return run
