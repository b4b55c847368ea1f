# SPDX-License-Identifier: Apache-2.0
"""What a runtime must offer to run a vision graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Port:
    """An input or output of a loaded graph; ``shape`` is None where the graph leaves it open."""

    name: str
    float32: bool
    shape: tuple[int, ...] | None


class DeviceArray:
    """A float32 array in the memory of a GPU, complete: whoever made it has waited for it.

    Parameters
    ----------
    address : int
        On the device.
    shape : tuple of int
    owner : object
        Keeps the memory.
    read : callable
        Copies the array to the host.

    Attributes
    ----------
    address : int
        0 once it has been moved to the host.
    """

    def __init__(self, address: int, shape: Sequence[int], owner: Any, read: Callable[[], NDArray[np.float32]]) -> None:
        self.address = int(address)
        self.shape = tuple(int(size) for size in shape)
        self._owner, self._read = owner, read
        self._array: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the array, wherever it lies: four per number."""
        size = 4
        for extent in self.shape:
            size *= extent
        return size

    def host(self) -> NDArray[np.float32]:
        """The numbers on the host, float32 of this `shape`; read each time until they have been moved there."""
        return self._read() if self._array is None else self._array

    def move(self) -> None:
        """Let go of the device's memory, which is about to be written again."""
        if self._array is None:
            self._array = self._read()
            self.address, self._owner = 0, None


class Lending:
    """Arrays lent out of buffers that the next film is written into."""

    def __init__(self) -> None:
        self._lent: list[weakref.ref[DeviceArray]] = []

    def lend(
        self, address: int, shape: Sequence[int], owner: Any, read: Callable[[], NDArray[np.float32]]
    ) -> DeviceArray:
        """An array of this `shape` for as long as its memory holds it; arguments as for :class:`DeviceArray`."""
        array = DeviceArray(address, shape, owner, read)
        self._lent.append(weakref.ref(array))
        return array

    def recall(self) -> None:
        """Move to the host what somebody still has: its memory is about to be written again."""
        for reference in self._lent:
            if (array := reference()) is not None:
                array.move()
        self._lent.clear()


class Backend(Protocol):
    """A loaded graph.

    Attributes
    ----------
    runtime : str
        ``ort``, ``openvino`` or ``tensorrt``.
    device : str
        ``cpu``, ``cuda`` or ``tensorrt``.
    inputs, outputs : sequence of Port
    """

    runtime: str
    device: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def run(self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """The outputs called `names`, in their order, as float32 arrays of their own and of the ports' shapes.

        `feed` holds a float32 array for every input. Any exception means that the graph failed.
        """
        ...


class DeviceBackend(Backend, Protocol):
    """One whose outputs can stay on a GPU."""

    def run_there(
        self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str], stay: Sequence[str]
    ) -> list[NDArray[np.float32] | DeviceArray]:
        """As :meth:`Backend.run`, but the outputs called `stay` remain on the device."""
        ...
