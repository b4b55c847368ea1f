# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of standard objects."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
