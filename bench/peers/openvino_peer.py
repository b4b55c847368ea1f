# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU: a stateful decoder, and the vision networks in float32 or quantized by NNCF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import openvino_decoder
from .gpt2 import folder, pixels, prompt
from .job import Job, each_or_why, made_once, require, time_once, time_steps
from .variants import VISION
from .vision_networks import onnx_file

CALIBRATION = 8


class OpenVino:
    def __init__(self, job: Job) -> None:
        import openvino

        self.info: dict[str, Any] = {"versions": require("openvino")}
        self.job = job
        self._core = openvino.Core()
        self._settings = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if job.weights == "fp32":  # left to itself it computes in bfloat16 where the processor can
            self._settings["INFERENCE_PRECISION_HINT"] = "f32"
        path = made_once(folder(job) / f"openvino-{job.weights}", self._write)
        compiled = self._core.compile_model(self._core.read_model(path / "decoder.xml"), "CPU", self._settings)
        self._decoder = compiled.create_infer_request()
        for name in ("KV_CACHE_PRECISION", "INFERENCE_PRECISION_HINT"):
            self.info[name.lower()] = str(compiled.get_property(name))
        self._prefix = prompt(job.prefix)
        asked = [task for task in job.tasks if task in VISION]
        self._networks, self.info["left_out"] = each_or_why(asked, self._compiled)

    def run(self, task: str) -> float:
        if task == "decode":
            return self._decode()
        if task == "prefill":
            return time_once(self._prefill, self.job)
        feed = {"pixels": pixels()}
        return time_once(lambda: self._networks[task].infer(feed), self.job)

    def _write(self, path: Path) -> None:
        import openvino

        path.mkdir()
        openvino.save_model(openvino_decoder.build(self.job.weights), path / "decoder.xml", compress_to_fp16=False)

    def _prefill(self) -> int:
        self._decoder.reset_state()
        return self._rows(self._prefix, 0)

    def _decode(self) -> float:
        token = self._prefill()

        def step(i: int) -> None:
            nonlocal token
            token = self._rows([token], self.job.prefix + i)

        return time_steps(step, self.job)

    def _rows(self, ids: Any, start: int) -> int:
        """Run rows from position `start` on; the greedy id after the last one."""
        import numpy as np

        rows, total = len(ids), start + len(ids)
        mask = np.zeros((1, 1, rows, total), np.float32)
        if rows > 1:
            mask[0, 0] = np.triu(np.full((rows, total), np.finfo(np.float32).min), start + 1)
        feed = {
            "ids": np.asarray(ids, np.int64)[None],
            "positions": np.arange(start, total, dtype=np.int64)[None],
            "mask": mask,
            "beam": np.zeros(1, np.int32),
        }
        return int(next(iter(self._decoder.infer(feed).values())).argmax())

    def _compiled(self, task: str) -> Any:
        model = self._core.read_model(self._network(task))
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()

    def _network(self, task: str) -> Path:
        source = onnx_file(task, self.job)
        if self.job.weights != "int8":
            return source
        require("nncf")

        def make(path: Path) -> None:
            import nncf
            import numpy as np
            import openvino

            rng = np.random.default_rng(0)
            films = [pixels() + rng.standard_normal(1).astype(np.float32) for _ in range(CALIBRATION)]
            kind = nncf.ModelType.TRANSFORMER if task == "encoder" else None
            data = nncf.Dataset(films, lambda film: {"pixels": film})
            quantized = nncf.quantize(self._core.read_model(source), data, model_type=kind, subset_size=CALIBRATION)
            path.mkdir()
            openvino.save_model(quantized, path / "network.xml", compress_to_fp16=False)

        return made_once(folder(self.job) / f"openvino-{task}-int8", make) / "network.xml"


def load(job: Job) -> OpenVino:
    require("openvino")
    return OpenVino(job)
