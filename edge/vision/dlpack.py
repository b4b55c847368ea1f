# SPDX-License-Identifier: Apache-2.0
"""Arrays of other frameworks in the memory of a GPU, by DLPack: a pointer changes hands, nothing is copied.

The layout of the structures is that of DLPack before version 1, which producers give to who asks for no version.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Any

from edge.errors import ProcessingError
from edge.vision.backend import DeviceArray

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_CUDA, _CUDA_MANAGED = 2, 13
_FLOAT = 2
_FRESH, _USED = b"dltensor", b"used_dltensor"
_LEGACY_STREAM = 1
"""The stream on which the producer makes its data complete: the decoder waits for it."""


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]


class _Owner:
    """Keeps the producer's memory until the last array that uses it has gone."""

    def __init__(self, managed: Any) -> None:
        if managed.contents.deleter:
            weakref.finalize(self, managed.contents.deleter, managed)


def is_on_gpu(array: Any) -> bool:
    """Whether this is an array that says it lies on a CUDA device."""
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and int(where()[0]) in (_CUDA, _CUDA_MANAGED)


def from_dlpack(array: Any, library: Path) -> DeviceArray:
    """The array, where it lies.

    Parameters
    ----------
    array : object with ``__dlpack__`` and ``__dlpack_device__``
        float32 and C-contiguous, on the first device.
    library : Path
        The CUDA library, which copies the array to the host where that is asked for.

    Raises
    ------
    ProcessingError
        It is another array, or lies elsewhere: on another GPU, or in memory that moves between GPU and host.
    """
    kind, number = map(int, array.__dlpack_device__())
    if kind == _CUDA_MANAGED:
        # Pages that may lie on either side while a recorded graph reads them by address: nothing to lend.
        raise ProcessingError("decoder: an array lies in managed memory: copy it to the GPU's own first")
    if number != 0:
        raise ProcessingError("decoder: an array lies on another GPU than the one that decodes")
    capsule = array.__dlpack__(stream=_LEGACY_STREAM)
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
    try:
        address = api.PyCapsule_GetPointer(capsule, _FRESH)
    except ValueError:
        raise ProcessingError("decoder: an array on the GPU is of another version of DLPack") from None
    managed = ctypes.cast(address, ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    if (tensor.code, tensor.bits, tensor.lanes) != (_FLOAT, 32, 1) or not _contiguous(shape, strides):
        raise ProcessingError("decoder: arrays on the GPU must be float32 and C-contiguous")
    api.PyCapsule_SetName(capsule, _USED)  # from here on it is ours to give back
    at = tensor.data + tensor.byte_offset
    return DeviceArray(at, shape, _Owner(managed), lambda: _read(library, at, shape))


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _read(library: Path, address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    import numpy as np

    from edge.decoder import _kernel

    array = np.empty(shape, np.float32)
    _kernel().device_read(str(library), address, array)
    return array
