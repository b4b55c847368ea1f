# SPDX-License-Identifier: Apache-2.0
"""Fixtures: hand-made bundles and a picture."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from handmade import chest_picture, make_bundle


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle; not to be written to."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "good")


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the good bundle, to be spoilt."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.png"
    Image.fromarray(chest_picture()).save(path)
    return path
