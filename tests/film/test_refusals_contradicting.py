# SPDX-License-Identifier: Apache-2.0
"""A header that contradicts itself is refused for the worse of what it says; --force overrides what is soft."""

from __future__ import annotations

import pytest
from film_builder import CR, DX, code_item, film
from pydicom.sequence import Sequence

from edge.errors import NotFrontalChest, UnsupportedModality

CHEST, KNEE = code_item("51185008", "Chest"), code_item("72696002", "Knee")


@pytest.mark.parametrize(("part", "region", "named"), [("HAND", CHEST, "HAND"), ("CHEST", KNEE, "KNEE")])
def test_one_attribute_that_names_another_part_is_enough(read, refused, part, region, named):
    ds = film(BodyPartExamined=part, AnatomicRegionSequence=Sequence([region]))
    assert f"another body part ({named}), though also the chest" in str(refused(ds, NotFrontalChest))
    got = read(ds, force=True)
    assert got.meta.body_part == named
    assert any("force" in w for w in got.warnings)


@pytest.mark.parametrize("sop_class", [CR, DX])
@pytest.mark.parametrize("modality", ["OT", "SC"])
def test_another_modality_is_refused_whatever_the_class_says(refused, sop_class, modality):
    error = refused(film(SOPClassUID=sop_class, Modality=modality), UnsupportedModality, force=True)
    assert f"gives {modality} (" in str(error)
    assert "set Modality (0008,0060) to CR or DX" in str(error)
