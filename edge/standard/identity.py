# SPDX-License-Identifier: Apache-2.0
"""UIDs of the objects a report becomes.

They are derived, not random (``2.25.`` and a name-based UUID, PS3.5 section B.2), from the film's SOP Instance UID,
the bundle's hash, the version of this software and what the object says. So the same film reported twice with the
same model gives the same object, which an archive keeps once, and two different texts never share a UID.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from edge.version import __version__

_NAMESPACE = uuid.UUID("5a4e1f6c-0d4e-5c52-9b39-6d6d1f0c7e52")
IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.uuid5(_NAMESPACE, 'implementation').int}"
IMPLEMENTATION_VERSION = f"EDGE_{__version__.replace('.', '_')}"[:16]


def derived_uuid(*parts: Any) -> uuid.UUID:
    """A name-based UUID (version 5) of plain values."""
    return uuid.uuid5(_NAMESPACE, json.dumps([__version__, *parts], sort_keys=True))


def derived_uid(*parts: Any) -> str:
    """A UID of plain values."""
    return f"2.25.{derived_uuid(*parts).int}"
