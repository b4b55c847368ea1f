# SPDX-License-Identifier: Apache-2.0
"""Reads trained weights, whoever made the file: nothing in a checkpoint is ever executed.

``.pth`` files are pickles and are read with ``weights_only``; every way a file can be wrong ends in one
clear error.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import BadCheckpoint, CannotRead, CorruptInput

_WRAPPERS = ("model_state_dict", "state_dict", "model")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_JSON = 16 << 20


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a ``.safetensors`` file or a ``.pth`` pickle, float32.

    A wrapping dictionary (``model_state_dict``) and a ``module.`` prefix are taken off.

    Raises
    ------
    CannotRead, CorruptInput, BadCheckpoint
    """
    if not path.is_file():
        raise CannotRead(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        with open(path, "rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise CannotRead(f"{path} cannot be read ({error.strerror})") from None
    if path.suffix == ".safetensors" or _looks_like_safetensors(head, path.stat().st_size):
        state: Any = _read_safetensors(path)
    else:
        state = _unwrap(_read_pickle(path), path)
    return _clean(state, path)


def names_in(path: Path) -> set[str]:
    """Names of a file's weights; none where it cannot be read, which its own reader tells."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(8)
            if path.suffix == ".safetensors":
                return set(json.loads(stream.read(min(struct.unpack("<Q", head)[0], _MAX_JSON))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
        return {str(name).removeprefix("module.") for name in _unwrap(loaded, path)}
    except Exception:  # a broken pickle may raise anything; whoever reads the file says what is wrong with it
        return set()


def shape_of(state: dict[str, Tensor], key: str, ndim: int, name: str) -> tuple[int, ...]:
    """The shape of a weight that tells a model's geometry.

    Raises
    ------
    BadCheckpoint
        There is none, or of another number of dimensions, or it is empty.
    """
    tensor = state.get(key)
    if tensor is None:
        raise BadCheckpoint(f"{name}: missing: {key}")
    if tensor.ndim != ndim or 0 in tensor.shape:
        raise BadCheckpoint(f"{name}: {key} {list(tensor.shape)} tells no geometry: it must have {ndim} dimensions")
    return tuple(tensor.shape)


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    if len(head) < 10:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= size - 8 and head[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError, RuntimeError):
        raise CorruptInput(f"{path.name} is not a whole safetensors file") from None


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways of writing files, in several lines
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names the forbidden global in a long text of advice, some of which is to switch the check off.
        found = re.search(r"(?:GLOBAL|Unsupported (?:global|class))[: ]+(\S+)", str(error))
        what = f"it asks for {found.group(1).strip('.`')}" if found else "it holds more than tensors"
        raise CorruptInput(f"{path.name} is not a plain file of weights: {what}; nothing in it was executed") from None
    except KeyboardInterrupt:
        raise
    except MemoryError:
        raise CorruptInput(f"{path.name} claims more data than this machine has memory for") from None
    except Exception as error:
        broken = zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError, OSError
        why = "truncated or damaged" if isinstance(error, broken) else type(error).__name__
        raise CorruptInput(f"{path.name} is not a PyTorch file of weights ({why})") from None


def _unwrap(loaded: Any, path: Path) -> dict[str, Any]:
    for _ in range(3):
        if not isinstance(loaded, dict):
            break
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            return loaded
        loaded = inner
    raise BadCheckpoint(f"{path.name} holds a {type(loaded).__name__}, not a dictionary of weights")


def _clean(state: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """float32 tensors under plain names; numbers that are not finite are an error."""
    if not state:
        raise BadCheckpoint(f"{path.name} holds no weights")
    names = list(state)
    prefix = "module." if all(isinstance(name, str) and name.startswith("module.") for name in names) else ""
    result, wrong = {}, []
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.is_sparse:
            wrong.append(f"{name} is not a tensor")
        elif not name.isprintable():
            wrong.append(f"{name!a} is no name of a weight")
        elif tensor.is_meta:
            wrong.append(f"{name} has no numbers, only a shape")
        elif tensor.dtype in (torch.bool, torch.int64, torch.int32, torch.uint8):
            result[name.removeprefix(prefix)] = tensor  # a buffer, if it is known at all
        elif tensor.dtype not in _FLOATS:
            wrong.append(f"{name} is {str(tensor.dtype).removeprefix('torch.')}")
        else:
            tensor = tensor.detach().to(torch.float32)
            if not torch.isfinite(tensor).all():
                wrong.append(f"{name} holds numbers that are not finite")
            result[name.removeprefix(prefix)] = tensor
    if wrong:
        raise BadCheckpoint(f"{path.name}: " + _listed(wrong))
    return result


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of at most 16 MB."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CorruptInput(f"{path.name} is too large for a configuration")
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CannotRead(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CorruptInput(f"{path.name} is not JSON") from None
    if not isinstance(value, dict):
        raise CorruptInput(f"{path.name} is not a JSON object")
    return value


@dataclass
class Fit:
    """How a state fits a model; all differences are found before anything is said."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def raise_if_any(self, name: str) -> None:
        """Raise one :class:`BadCheckpoint` that lists everything."""
        parts = [
            f"{len(items)} {what}: {', '.join(items)}"
            for what, items in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("wrongly shaped", self.misshapen),
            )
            if items
        ]
        if parts:
            raise BadCheckpoint(f"{name} does not fit the model\n  " + "\n  ".join(parts))


def compare(
    state: dict[str, Tensor], expected: dict[str, Tensor], *, optional: Iterable[str], ignored: Iterable[str]
) -> Fit:
    """Compare names and shapes.

    Parameters
    ----------
    optional, ignored : iterable of str
        Regular expressions: weights that may be missing, and extra entries that mean nothing.
    """
    may_miss, may_extra = ([re.compile(p) for p in patterns] for patterns in (optional, ignored))
    fit = Fit()
    for name, tensor in expected.items():
        if name not in state:
            if not any(p.fullmatch(name) for p in may_miss):
                fit.missing.append(name)
        elif state[name].shape != tensor.shape:
            fit.misshapen.append(f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}")
        elif not state[name].is_floating_point():
            fit.misshapen.append(f"{name} holds no floating-point numbers")
    fit.unexpected = [name for name in state if name not in expected and not any(p.fullmatch(name) for p in may_extra)]
    return fit


def _listed(items: list[str], limit: int = 20) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more
