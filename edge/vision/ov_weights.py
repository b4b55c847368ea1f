# SPDX-License-Identifier: Apache-2.0
"""Large weights of a graph for OpenVINO that stay in their file.

OpenVINO copies an ONNX graph's weights into its memory, lays the ones of its products out anew, and keeps both for as
long as the graph is loaded; what it was given is not read again. So here it is given the file itself, mapped, and the
pages are let go once the graph is compiled: should it read there after all, they come back from the file.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.vision.stored import raw_data

SMALLEST = 1 << 16
"""Bytes from which a weight is worth it."""


class FileWeights:
    """A graph's file, mapped read-only.

    Parameters
    ----------
    path : Path
        A single-file ONNX graph that :func:`edge.onnxfile.check_self_contained` has seen.

    Raises
    ------
    OSError, ValueError
        It cannot be mapped, or is no ONNX file.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._where = raw_data(self._map)

    def give_to(self, openvino: Any, model: Any) -> int:
        """Let a model that was read from the file have its large constants there.

        Parameters
        ----------
        openvino : module
        model : openvino.Model

        Returns
        -------
        int
            Bytes of the constants that now lie in the file.
        """
        given = 0
        for node in model.get_ops():
            if node.get_type_name() != "Constant":
                continue
            begin, end = self._where.get(node.get_friendly_name(), (0, 0))
            here = node.data
            if end - begin < SMALLEST or end - begin != here.nbytes or begin % here.itemsize:
                continue
            array = self._array(begin, here)
            if not np.array_equal(array.view(np.uint8), here.view(np.uint8)):
                continue  # read in some other way than as it is stored
            constant = openvino.op.Constant(array, shared_memory=True)
            if constant.get_element_type() != node.get_element_type():
                continue  # a type that NumPy has not
            constant.set_friendly_name(node.get_friendly_name())
            node.output(0).replace(constant.output(0))
            given += array.nbytes
        return given

    def let_go(self) -> None:
        """Give the memory of the file's pages back. They are read again where they are looked at."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _array(self, begin: int, like: NDArray[Any]) -> NDArray[Any]:
        end = begin + like.nbytes
        return as_if_writable(memoryview(self._map)[begin:end]).view(like.dtype).reshape(like.shape)


def as_if_writable(data: memoryview) -> NDArray[np.uint8]:
    """A view of a read-only mapping that says it can be written: OpenVINO takes no other, and writes to none."""
    there = np.frombuffer(data, np.uint8)
    memory = (ctypes.c_uint8 * there.size).from_address(there.ctypes.data)
    memory.owner = there  # type: ignore[attr-defined]  # what the address is good for as long as
    return np.ctypeslib.as_array(memory)
