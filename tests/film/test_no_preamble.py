# SPDX-License-Identifier: Apache-2.0
"""A file whose preamble alone is missing begins with the prefix DICM; it is DICOM like any other."""

from __future__ import annotations

import numpy as np
import pytest
from film_builder import film, to_bytes

from edge.errors import NotAnImage
from edge.film import read_film


def test_prefix_without_preamble():
    data = to_bytes(film())
    assert np.array_equal(read_film(data[128:]).pixels, read_film(data).pixels)


def test_prefix_before_something_else():
    with pytest.raises(NotAnImage):
        read_film(b"DICM" + b"hello world, no element" * 20)
