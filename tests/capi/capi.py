# SPDX-License-Identifier: Apache-2.0
"""libedge_report through ctypes, for tests: the structures of edge_report.h and a thin engine."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

VOI = {"": 0, "LINEAR": 1, "LINEAR_EXACT": 2, "SIGMOID": 3}
ON_TEXT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)


class Error(ctypes.Structure):
    _fields_ = (("status", ctypes.c_int32), ("message", ctypes.c_char * 508))


class Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("runtime", ctypes.c_char_p),
        ("runtime_library", ctypes.c_char_p),
        ("bias_rows", ctypes.c_char_p),
        ("kv_dtype", ctypes.c_char_p),
        ("isa", ctypes.c_char_p),
        ("draft", ctypes.c_int32),
    )


class Lut(ctypes.Structure):
    _fields_ = (
        ("entries", ctypes.POINTER(ctypes.c_uint16)),
        ("count", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("bits", ctypes.c_int32),
    )


class Film(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("pixels", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("row_stride", ctypes.c_int64),
        ("bits_allocated", ctypes.c_int32),
        ("bits_stored", ctypes.c_int32),
        ("high_bit", ctypes.c_int32),
        ("is_signed", ctypes.c_int32),
        ("big_endian", ctypes.c_int32),
        ("photometric", ctypes.c_int),
        ("presentation", ctypes.c_int),
        ("rescale_slope", ctypes.c_double),
        ("rescale_intercept", ctypes.c_double),
        ("modality_lut", Lut),
        ("voi", ctypes.c_int),
        ("window_center", ctypes.c_double),
        ("window_width", ctypes.c_double),
        ("voi_lut", Lut),
        ("has_padding", ctypes.c_int32),
        ("padding_value", ctypes.c_int32),
        ("padding_limit", ctypes.c_int32),
        ("modality", ctypes.c_char_p),
        ("view_position", ctypes.c_char_p),
        ("sop_instance_uid", ctypes.c_char_p),
        ("study_instance_uid", ctypes.c_char_p),
        ("series_instance_uid", ctypes.c_char_p),
    )


class ReportOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("max_new_tokens", ctypes.c_int32),
        ("bias_rows", ctypes.c_char_p),
        ("repetition_penalty", ctypes.c_double),
        ("temperature", ctypes.c_double),
        ("top_k", ctypes.c_int32),
        ("top_p", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("cut", ctypes.c_int32),
        ("draft", ctypes.c_int32),
        ("on_text", ON_TEXT),
        ("user", ctypes.c_void_p),
        ("cancel", ctypes.c_void_p),
        ("beams", ctypes.c_int32),
    )


class CapiError(Exception):
    def __init__(self, error: Error) -> None:
        super().__init__(error.message.decode())
        self.status = int(error.status)
        self.exit_code = self.status


def onnxruntime_library() -> Path:
    """The shared library in the wheel of ONNX Runtime."""
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))


class Library:
    """libedge_report, loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = c = ctypes.CDLL(str(path))
        for name in ("version", "status_name", "engine_info", "engine_notice"):
            getattr(c, f"edge_{name}").restype = ctypes.c_char_p
        for name in ("options", "film", "report_options"):
            getattr(c, f"edge_{name}_init_sized").argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        for name in ("text", "json", "warning"):
            getattr(c, f"edge_report_{name}").restype = ctypes.c_char_p
        for name in ("text", "json", "free", "warning_count"):
            getattr(c, f"edge_report_{name}").argtypes = (ctypes.c_void_p,)
        c.edge_report_warning_count.restype = ctypes.c_size_t
        c.edge_report_warning.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        c.edge_report_mask.restype = ctypes.POINTER(ctypes.c_uint8)
        c.edge_cancel_new.restype = ctypes.c_void_p
        for name in ("set", "reset", "free"):
            getattr(c, f"edge_cancel_{name}").argtypes = (ctypes.c_void_p,)
        for name in ("close", "info", "notice", "last_error"):
            getattr(c, f"edge_engine_{name}").argtypes = (ctypes.c_void_p,)
        c.edge_engine_last_error.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        c.edge_engine_report.argtypes = (ctypes.c_void_p,) * 5
        c.edge_engine_prepare.argtypes = (*((ctypes.c_void_p,) * 3), ctypes.c_size_t, ctypes.c_void_p)

    def film(self, **values: Any) -> Film:
        film = Film()
        self.c.edge_film_init_sized(ctypes.byref(film), ctypes.sizeof(film))
        for name, value in values.items():
            setattr(film, name, value)
        return film

    def film_of_array(self, array: np.ndarray) -> Film:
        """As :meth:`edge.Engine.report` takes an array."""
        size, kind = array.dtype.itemsize, array.dtype.kind
        film = self.film(
            pixels=array.ctypes.data,
            rows=array.shape[0],
            columns=array.shape[1],
            row_stride=array.strides[0],
            bits_allocated=8 * size,
            is_signed=int(kind == "i"),
        )
        film.keep = array
        return film

    def engine(self, bundle: str | os.PathLike[str], **options: Any) -> Engine:
        return Engine(self, bundle, **options)


class Engine:
    """An engine of the library; options as the fields of edge_options, texts as str."""

    def __init__(self, library: Library, bundle: str | os.PathLike[str], **options: Any) -> None:
        self.library = library
        self.handle = ctypes.c_void_p()
        given = Options()
        library.c.edge_options_init_sized(ctypes.byref(given), ctypes.sizeof(given))
        options.setdefault("threads", 1)
        if "runtime_library" not in options:
            options["runtime_library"] = str(onnxruntime_library())
        for name, value in options.items():
            setattr(given, name, value.encode() if isinstance(value, str) else value)
        self._check(library.c.edge_engine_open, os.fsencode(bundle), ctypes.byref(given), ctypes.byref(self.handle))

    def _check(self, function: Any, *arguments: Any) -> None:
        error = Error()
        status = function(*arguments, ctypes.byref(error))
        assert status == error.status
        if status:
            assert error.message
            raise CapiError(error)

    def close(self) -> None:
        self.library.c.edge_engine_close(self.handle)
        self.handle = ctypes.c_void_p()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def info(self) -> dict[str, Any]:
        return json.loads(self.library.c.edge_engine_info(self.handle))

    def prepare(self, film: Film, height: int, width: int) -> np.ndarray:
        pixels = np.empty((3, height, width), np.float32)
        self._check(
            self.library.c.edge_engine_prepare, self.handle, ctypes.byref(film), pixels.ctypes.data, pixels.size
        )
        return pixels

    def report(self, film: Film, **options: Any) -> dict[str, Any]:
        """The report's JSON, with what other functions tell under ``c``."""
        c = self.library.c
        given = ReportOptions()
        c.edge_report_options_init_sized(ctypes.byref(given), ctypes.sizeof(given))
        for name, value in options.items():
            setattr(given, name, value.encode() if isinstance(value, str) else value)
        handle = ctypes.c_void_p()
        self._check(c.edge_engine_report, self.handle, ctypes.byref(film), ctypes.byref(given), ctypes.byref(handle))
        try:
            result = json.loads(c.edge_report_json(handle))
            assert c.edge_report_text(handle).decode() == result["findings"]
            count = c.edge_report_warning_count(handle)
            assert [c.edge_report_warning(handle, i).decode() for i in range(count)] == result["warnings"]
            rows, columns = ctypes.c_int32(), ctypes.c_int32()
            data = c.edge_report_mask(handle, ctypes.byref(rows), ctypes.byref(columns))
            shape = rows.value, columns.value
            result["c"] = {"mask": np.ctypeslib.as_array(data, shape).copy() if data else None}
            return result
        finally:
            c.edge_report_free(handle)
