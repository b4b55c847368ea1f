# SPDX-License-Identifier: Apache-2.0
"""A graph module to a single-file ONNX model, and an ONNX Runtime session to run it in checks."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20
CHECK_ONLY = ("prefix_embeddings",)
"""Outputs that only the self-check looks at where the graph holds the prefill."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress prints and warnings of libraries away from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def quick_rules() -> Iterator[None]:
    """Leave out the optimizer's rules with several outputs.

    For each it lists the whole graph at every node, which takes more than half of an export. There is one, for slices
    that split a tensor; a graph without it computes the same.
    """
    from onnxscript import rewriter

    name = "_DEFAULT_REWRITE_RULES"
    rules = getattr(rewriter, name, None)
    try:
        quick = tuple(rule for rule in rules or () if rule._target_pattern.has_single_output_node)
    except AttributeError:  # another version, which is left as it is
        quick = ()
    if quick:
        setattr(rewriter, name, quick)
    try:
        yield
    finally:
        if quick:
            setattr(rewriter, name, rules)


def to_onnx(graph: nn.Module) -> onnx.ModelProto:
    """Trace a graph module (``example_inputs``, ``input_names``, ``output_names``) with fixed shapes."""
    import torch

    # On the wrapper itself: else Dropout is exported in training mode.
    graph.eval()
    with torch.no_grad(), quiet(), quick_rules():
        program = torch.onnx.export(
            graph,
            graph.example_inputs(),  # type: ignore[operator]
            input_names=graph.input_names,
            output_names=graph.output_names,
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    model = program.model_proto
    model.producer_name, model.producer_version = "edge-export", ""
    model.graph.name = "vision"
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    return model


def without_check_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the outputs of ``CHECK_ONLY`` taken off (in place), if it holds the prefill."""
    kept = [output for output in model.graph.output if output.name not in CHECK_ONLY]
    if not any(output.name == "first_logits" for output in kept):
        return model
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def open_session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU whose threads sleep when there is nothing to do."""
    from edge.vision.ort import import_runtime, session_options

    onnxruntime = import_runtime()
    options = session_options(onnxruntime, threads)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(pixels: np.ndarray, *, bias: bool, switch: bool) -> dict[str, np.ndarray]:
    """What the graph is fed for one picture."""
    return {"pixels": pixels, **({"bias_switch": np.array([bias], np.float32)} if switch else {})}


class GraphSession:
    """An ONNX Runtime CPU session that returns named arrays."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        self._session = open_session(path, threads)
        self._inputs = {node.name for node in self._session.get_inputs()}
        self.outputs = [node.name for node in self._session.get_outputs()]

    def run(self, pixels: np.ndarray, *, bias: bool = True) -> dict[str, np.ndarray]:
        """Pixels float32 [1,3,H,W] to the graph's outputs."""
        feed = inputs(pixels, bias=bias, switch="bias_switch" in self._inputs)
        return dict(zip(self.outputs, self._session.run(None, feed), strict=True))
