# SPDX-License-Identifier: Apache-2.0
"""Compiles a graph with TensorRT for RTX, which needs no GPU for that, by the code that builds plans for TensorRT.

``python rtx_build.py GRAPH [FOLDER]``: FOLDER holds the package ``tensorrt_rtx`` where it is not installed. In a
process of its own, as these libraries may end it. Exit code 1: the graph is refused; stderr then says why.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path


def main(graph: str, *folders: str) -> int:
    sys.path += folders
    import tensorrt_rtx

    from edge.errors import BundleError
    from edge.vision.tensorrt import TensorRtBackend, _logger

    logging.basicConfig(level=logging.INFO)
    builder = object.__new__(TensorRtBackend)  # its __init__ asks for a device first
    builder._trt, builder._logger = tensorrt_rtx, _logger(tensorrt_rtx)
    try:
        plan = builder._build(Path(graph), "no GPU")
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"compiled: {len(plan)} bytes, TensorRT for RTX {tensorrt_rtx.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
