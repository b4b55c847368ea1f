# SPDX-License-Identifier: Apache-2.0
"""Large graphs as OpenVINO has compiled them, in the user's cache: they load in a third of the time.

OpenVINO keeps such a file itself where it is told a folder; it reads what lies there, whoever wrote it. Here the file
is pinned as TensorRT's plans are (:mod:`edge.vision.plans`). ``EDGE_VISION_CACHE=off`` keeps and reads none. The C
library (csrc/capi/openvino_kept.h) has the same files.
"""

from __future__ import annotations

import logging
import mmap
import os
from typing import Any

from edge.errors import DeviceError
from edge.vision.ov_weights import as_if_writable
from edge.vision.plans import PlanCache, default_folder, has_plan

log = logging.getLogger("edge")

ENVIRONMENT = "EDGE_VISION_CACHE"
_FOLDER = "openvino"
MOST = 3
"""Compiled graphs that are kept, about a hundred megabytes each."""


def is_kept(graph: str) -> bool:
    """Whether a graph, told by the SHA-256 of its file, seems to have been compiled here before."""
    try:
        return os.environ.get(ENVIRONMENT) != "off" and has_plan(default_folder(_FOLDER), graph)
    except RuntimeError:  # this user has no home
        return False


class CompiledGraph:
    """One graph's place in the cache.

    Parameters
    ----------
    openvino : module
    core : openvino.Core
    graph : str
        SHA-256 of the graph's file.
    config : dict
        What it is compiled with. The number of threads is not part of what is kept.
    """

    def __init__(self, openvino: Any, core: Any, graph: str, config: dict[str, Any]) -> None:
        self._openvino, self._core, self._config = openvino, core, config
        self._pages: memoryview | None = None
        self._cache: PlanCache | None = None
        if os.environ.get(ENVIRONMENT) == "off":
            return
        try:
            self._cache = PlanCache(default_folder(_FOLDER), "compiled graphs")
        except (DeviceError, RuntimeError) as error:  # RuntimeError: this user has no home
            log.info("the compiled vision graph is not kept: %s", error)
            return
        fixed = sorted(f"{name}={value}" for name, value in config.items() if name != "INFERENCE_NUM_THREADS")
        self._key = {
            "graph": graph,
            "openvino": str(openvino.get_version()),
            "processor": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            "can": " ".join(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
            "options": " ".join(fixed),
        }

    def load(self) -> Any | None:
        """What was kept, ready to run; None where there is nothing, or nothing of use."""
        found = self._cache.get(self._key) if self._cache is not None else None
        if self._cache is None or found is None:
            return None
        try:
            tensor = self._openvino.Tensor(as_if_writable(found), shared_memory=True)
            compiled = self._core.import_model(tensor, "CPU", self._config)
        except Exception as error:
            log.info("the vision graph is compiled anew: what was kept is of no use (%s)", type(error).__name__)
            self._cache.drop(self._key)
            return None
        self._pages, self._tensor = found, tensor
        return compiled

    def keep(self, compiled: Any) -> None:
        """Write a graph that was compiled just now, whole or not at all."""
        if self._cache is None:
            return
        import io

        stream = io.BytesIO()
        compiled.export_model(stream)
        if self._cache.put(self._key, stream.getbuffer()):
            self._cache.drop_oldest(MOST)
            log.info("the compiled vision graph is kept in %s: it loads faster next time", self._cache.folder)
        else:
            log.info("the compiled vision graph could not be kept in %s", self._cache.folder)

    def let_go(self) -> None:
        """Give the memory of the file's pages back.

        Most weights are laid out anew when the graph first runs; what is still read is a small part of the pages.
        """
        if self._pages is not None and isinstance(self._pages.obj, mmap.mmap):
            self._pages.obj.madvise(mmap.MADV_DONTNEED)
