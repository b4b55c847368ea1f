# SPDX-License-Identifier: Apache-2.0
"""One measurement in a process of its own: ``python -m edge_bench.gpu.worker MODULE OPTIONS``.

Prints a line of JSON for each part of what is found, as soon as it is: what was measured before a hang is not lost.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from edge.errors import EdgeError


def found(module: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What ``measure`` of a module of this package finds, part by part; ``failed``: why there is no more."""
    try:
        part = importlib.import_module(f"{__package__}.{module}").measure(**options)
        yield from [part] if isinstance(part, dict) else part
    except EdgeError as error:
        yield {"failed": f"{error.kind}: {error}"[:300]}
    except Exception as error:
        text = " ".join(str(error).split())
        yield {"failed": f"{type(error).__name__}: {text}"[:300]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_bench.gpu.worker", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("module", metavar="MODULE", help="of this package, with a function measure")
    parser.add_argument("options", metavar="OPTIONS", type=json.loads, help="its arguments, as JSON")
    call = parser.parse_args(argv)
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGTERM, chain=True)  # where it hung
    for part in found(call.module, call.options):
        print(json.dumps(part), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
