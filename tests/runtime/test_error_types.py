# SPDX-License-Identifier: Apache-2.0
"""Errors go from one process to another, as ``concurrent.futures`` and ``multiprocessing`` send them."""

from __future__ import annotations

import pickle

import pytest

import edge

ERRORS = [
    name for name in edge.__all__ if isinstance(kind := getattr(edge, name), type) and issubclass(kind, Exception)
]


@pytest.mark.parametrize("name", ERRORS)
def test_errors_survive_being_sent(name: str) -> None:
    kind = getattr(edge, name)
    assert issubclass(kind, edge.EdgeError)
    for error in (kind("what", hint="do"), kind()):
        sent = pickle.loads(pickle.dumps(error))
        assert type(sent) is kind
        assert (str(sent), sent.hint, sent.exit_code) == (str(error), error.hint, error.exit_code)
