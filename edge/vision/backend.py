# SPDX-License-Identifier: Apache-2.0
"""What a runtime must offer to run a vision graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Port:
    """An input or output of a loaded graph; ``shape`` is None where the graph leaves it open."""

    name: str
    float32: bool
    shape: tuple[int, ...] | None


class Backend(Protocol):
    """A loaded graph.

    Attributes
    ----------
    runtime : str
        ``ort`` or ``openvino``.
    device : str
        ``cpu`` or ``cuda``.
    inputs, outputs : sequence of Port
    """

    runtime: str
    device: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def run(self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """The outputs called `names`, as arrays of their own. Any exception means that the graph failed."""
        ...
