# SPDX-License-Identifier: Apache-2.0
"""The bundle's second vision graph, in float16: made, held against TensorRT's rules and the CUDA provider's kernels,
compared with the first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import ExportError
from .graph_cuda import for_cuda, without_cuda_kernel
from .graph_fp16 import to_fp16
from .graph_static import StaticPlan
from .graph_tensorrt import with_symmetric_int8
from .onnx_graph import CHECK_ONLY, open_session, without_check_outputs
from .tensorrt_lint import lint

if TYPE_CHECKING:
    import onnx

LARGEST_ERROR = 1e-3
"""Squared error over the squared values of any output but the mask."""
LEAST_DICE = 0.98
LARGEST_ERROR_INT8, LEAST_DICE_INT8 = 0.1, 0.9
BORDER_PIXELS = 4


def write_gpu_graph(
    model: onnx.ModelProto,
    path: Path,
    feeds: Iterable[dict[str, np.ndarray]],
    work: Path,
    threads: int,
    plan: StaticPlan | None = None,
    largest_error: float | None = None,
) -> str:
    """Write the float16 graph of a float32 one; a sentence for the model card.

    Parameters
    ----------
    model : ModelProto
        In float32; not changed.
    path : Path
        To write.
    feeds : iterable of dict
        Inputs for the comparison, by name: float32 arrays of the graph's own shapes.
    work : Path
        Folder for the float32 graph meanwhile.
    threads : int
        Of the comparison.
    plan : StaticPlan, optional
        Which products are to be int8, for TensorRT; with symmetric ranges.
    largest_error : float, optional
        Squared error over squared values that an output may have; by default `LARGEST_ERROR`, and with a plan
        `LARGEST_ERROR_INT8`. For weights that nobody uses: random ones round worse.

    Raises
    ------
    ExportError
        TensorRT would refuse the graph, ONNX Runtime leave a part of it to the CPU, or it computes something else.
    """
    half, taken = for_cuda(without_check_outputs(to_fp16(model))), 0
    if problems := without_cuda_kernel(half):
        raise ExportError(f"ONNX Runtime would leave nodes of the float16 graph to the CPU: {'; '.join(problems[:3])}")
    if plan is not None:
        half, taken = with_symmetric_int8(half, plan)
    if problems := lint(half):
        raise ExportError(f"the float16 graph breaks TensorRT's rules: {'; '.join(problems[:3])}")
    path.write_bytes(half.SerializeToString())
    del half
    whole = work / "float32.onnx"
    whole.write_bytes(model.SerializeToString())
    try:
        sessions = open_session(whole, threads), open_session(path, threads)
    finally:
        whole.unlink()
    names = [output.name for output in sessions[0].get_outputs() if output.name not in CHECK_ONLY]
    worst, dice, pictures = 0.0, 1.0, 0
    for feed in feeds:
        pictures += 1
        for name, want, got in zip(names, *(session.run(names, feed) for session in sessions), strict=True):
            if name == "mask":
                dice = min(dice, _dice(got, want))
                continue
            # The lowest number hides a key: it must be the same keys, and is nothing to take an error of.
            shown = want > np.finfo(np.float32).min
            if not np.array_equal(shown, got > np.finfo(np.float32).min) and dice == 1.0:
                worst = np.inf
            shown &= got > np.finfo(np.float32).min
            worst = max(worst, float(((got - want)[shown] ** 2).sum() / max(float((want[shown] ** 2).sum()), 1e-30)))
    most, least = (LARGEST_ERROR, LEAST_DICE) if plan is None else (LARGEST_ERROR_INT8, LEAST_DICE_INT8)
    if largest_error is not None:
        most = largest_error
    if not (worst <= most and dice >= least):
        raise ExportError(f"the graph for GPUs differs from float32: error {worst:.1e}, mask {dice:.4f}")
    if plan is not None:
        return (
            f"The bundle holds the vision graph for TensorRT with {taken} of {len(plan.errors)} products in int8 too. "
            f"Beside float32 on {pictures} pictures: squared error over squared values at most {worst:.1e}, Dice of "
            f"the mask at least {dice:.4f}."
        )
    return (
        f"The bundle holds the vision graph in float16 too, for GPUs. Beside float32 on {pictures} pictures: squared "
        f"error over squared values at most {worst:.1e}, Dice of the mask at least {dice:.4f}."
    )


def _dice(got: np.ndarray, want: np.ndarray) -> float:
    if int((got != want).sum()) <= BORDER_PIXELS:
        return 1.0
    return 2.0 * float((got * want).sum()) / float(got.sum() + want.sum())
