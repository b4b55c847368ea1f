# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: float32, and its dynamic int8 quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import onnx_decoder
from .gpt2 import SPEC, folder, pixels, prompt
from .job import Job, each_or_why, made_once, require, time_once, time_steps
from .variants import VISION
from .vision_networks import onnx_file


def quantized(source: Path, job: Job) -> Path:
    """The dynamic int8 version of an ONNX file, one scale per output channel, made once."""

    def make(path: Path) -> None:
        from onnx import TensorProto
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            source,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )

    return made_once(folder(job) / f"{source.stem}-int8.onnx", make)


class OnnxRuntime:
    def __init__(self, job: Job) -> None:
        import onnxruntime

        self.info: dict[str, Any] = {"versions": require("onnxruntime")}
        self.job = job
        self._runtime = onnxruntime
        path = made_once(folder(job) / "decoder.onnx", onnx_decoder.write)
        self._decoder = self._session(path)
        self._prefix = prompt(job.prefix)
        self._cache: list[Any] = []
        asked = [task for task in job.tasks if task in VISION]
        self._networks, left_out = each_or_why(asked, lambda task: self._session(onnx_file(task, job)))
        self.info["left_out"] = left_out

    def run(self, task: str) -> float:
        if task == "decode":
            return self._decode()
        if task == "prefill":
            return time_once(self._prefill, self.job)
        feed = {"pixels": pixels()}
        return time_once(lambda: self._networks[task].run(None, feed), self.job)

    def _session(self, path: Path) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.job.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if self.job.weights == "int8":
            path = quantized(path, self.job)
        return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _prefill(self) -> int:
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

        value = self._runtime.OrtValue.ortvalue_from_numpy
        if not self._cache:
            room = self.job.prefix + self.job.tokens + 1
            shape = (1, SPEC["kv_heads"], room, SPEC["head_dim"])
            self._cache = [value(np.zeros(shape, np.float32)) for _ in onnx_decoder.cache_names("past")]
        total = start + len(ids)
        binding = self._decoder.io_binding()
        binding.bind_cpu_input("ids", np.asarray(ids, np.int64)[None])
        binding.bind_cpu_input("positions", np.arange(start, total, dtype=np.int64)[None])
        binding.bind_cpu_input("last", np.array([total - 1], np.int32))
        binding.bind_cpu_input("total", np.array([total], np.int32))
        for what, bind in (("past", binding.bind_ortvalue_input), ("present", binding.bind_ortvalue_output)):
            for name, buffer in zip(onnx_decoder.cache_names(what), self._cache, strict=True):
                bind(name, buffer)
        binding.bind_output("logits", "cpu")
        self._decoder.run_with_iobinding(binding)
        return int(binding.get_outputs()[-1].numpy().argmax())


def load(job: Job) -> OnnxRuntime:
    require("onnxruntime", "onnx")
    return OnnxRuntime(job)
