# SPDX-License-Identifier: Apache-2.0
"""One trace of each graph for a whole run of the tests: tracing is nearly all that the export of a tiny model takes.

The exporter's own :func:`to_onnx` makes it, in whichever process asks first; every bundle of the same weights and the
same kind of graph begins with a copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    from edge_export.families.lana.vision_graph import VisionGraph

FOLDER = "EDGE_TEST_TRACES"
"""Variable with the folder that the processes of a run share."""


def to_onnx(graph: VisionGraph) -> onnx.ModelProto:
    """What the exporter's function of this name gives, from the folder if it has been there."""
    import onnx
    from edge_export.onnx_graph import to_onnx as trace

    folder = os.environ.get(FOLDER)
    if folder is None:
        return trace(graph)
    Path(folder).mkdir(exist_ok=True)
    path = Path(folder) / f"{digest(graph)}.onnx"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(trace(graph).SerializeToString(deterministic=True))
            partial.replace(path)
    return onnx.load(path)


def digest(graph: VisionGraph) -> str:
    """Tells graphs apart by everything that a :class:`VisionGraph` is made from."""
    config = asdict(graph.config)
    bias, length = config.pop("bias"), 0
    del bias["rows"]  # what the switch and the manifest are for
    if not graph.with_mask:
        bias = config["segmenter"] = None
    elif graph.config.bias.span == "sequence":
        length = graph.sequence_length
    kind = (graph.with_mask, graph.with_prefill, graph.shared_trunk, bias, length)
    found = hashlib.sha256(repr((sorted(config.items()), kind)).encode())
    for name, tensor in [*graph.named_parameters(), *graph.named_buffers()]:
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()
