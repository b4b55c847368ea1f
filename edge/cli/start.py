# SPDX-License-Identifier: Apache-2.0
"""Where the installed commands begin: an interrupt while one is still being imported is a line, too, and no traceback.

Imports nothing before that.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130


def report() -> int:
    """``edge-report``."""
    return _begin("edge-report", "edge.cli.report")


def node() -> int:
    """``edge-node``."""
    return _begin("edge-node", "edge.node.cli")


def review() -> int:
    """``edge-review``."""
    return _begin("edge-review", "edge.review.cli")


def _begin(name: str, module: str) -> int:
    try:
        __import__(module)
        code: int = sys.modules[module].main()
        return code
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return INTERRUPTED
