# SPDX-License-Identifier: Apache-2.0
"""A vision graph recorded as one CUDA graph and replayed, film after film."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge.errors import DeviceError
from edge.vision.backend import Port

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("edge")

CAPTURE = "EDGE_CUDA_CAPTURE"
"""Environment variable: ``off`` runs graphs on a GPU operator by operator."""
EXACT = {"use_tf32": "0"}
"""Of the CUDA provider, since ONNX Runtime 1.18: products that are left in float32 are of float32. By default the
provider rounds their factors to ten bits on GPUs that have TF32."""
CAPTURED = {**EXACT, "enable_cuda_graph": "1"}
"""Such a session records what its first run does on the device; afterwards a run is nothing but the replay of it, which
looks at no argument."""


def wanted() -> bool:
    """Whether graphs are to be recorded; told where they are not."""
    if os.environ.get(CAPTURE) != "off":
        return True
    log.info("the vision graph runs operator by operator: $%s is off", CAPTURE)
    return False


def tell_uncaptured(error: Exception) -> None:
    """One line: a graph cannot be recorded, and why."""
    reason = " ".join(str(error).split())[:160]
    log.info(
        "the vision graph runs operator by operator: it could not be recorded as a CUDA graph (%s: %s)",
        type(error).__name__,
        reason,
    )


def can_be_captured(ports: Sequence[Port]) -> bool:
    """Whether all inputs and outputs are float32 of a fixed shape, and so can keep their addresses."""
    return all(port.float32 and port.shape is not None and all(size > 0 for size in port.shape) for port in ports)


class CapturedGraph:
    """A session made with :data:`CAPTURED`, with inputs and outputs that lie on the device and stay there.

    Parameters
    ----------
    ort : module
        ``onnxruntime``.
    session : InferenceSession
    inputs, outputs : sequence of Port
        As :func:`can_be_captured` wants them.
    """

    def __init__(self, ort: Any, session: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        import numpy as np

        self._session, self._binding = session, session.io_binding()
        self._values = {
            port.name: ort.OrtValue.ortvalue_from_shape_and_type(list(port.shape or ()), np.float32, "cuda", 0)
            for port in (*inputs, *outputs)
        }
        self._inputs = {port.name: port.shape for port in inputs}
        for port in inputs:
            self._binding.bind_ortvalue_input(port.name, self._values[port.name])
        for port in outputs:
            self._binding.bind_ortvalue_output(port.name, self._values[port.name])

    def run(self, feed: Mapping[str, NDArray[np.float32]]) -> None:
        """Write the inputs where the recorded work reads them, and do it; outputs are complete afterwards.

        Raises
        ------
        DeviceError
            Not exactly the graph's inputs. Whatever else is raised means that the graph cannot be recorded or failed.
        """
        import numpy as np

        if {name: array.shape for name, array in feed.items()} != self._inputs:
            raise DeviceError("the recorded vision graph takes inputs of other shapes")
        for name, array in feed.items():
            self._values[name].update_inplace(np.ascontiguousarray(array, np.float32))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def value(self, name: str) -> Any:
        """The OrtValue of an input or output: the same one for every film."""
        return self._values[name]
