# SPDX-License-Identifier: Apache-2.0
"""What to carry to a machine with a GPU and no network, as wheels for Python 3.12 on Linux, x86-64."""

from __future__ import annotations

SMALL = ("pydicom>=3.0.1,<4", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm")
"""20 MB: what a machine lacks that has PyTorch, transformers, onnx, onnxruntime, tokenizers and the tools to build."""
ALL = (
    "cmake", "ninja", "pybind11", "numpy", "opencv-python-headless", "pillow", *SMALL, "safetensors",
    "tokenizers<0.23", "onnx", "onnxscript", "onnxruntime-gpu", "transformers<4.58", "tqdm", "pytest", "pytest-timeout",
    "pytest-xdist", "hypothesis",
)  # fmt: skip
"""Beside PyTorch, whose cuDNN ONNX Runtime finds. Without onnxruntime-gpu the processor computes the vision graph,
without transformers and onnxscript there is no bundle of the full size; the rest is needed."""
TENSORRT = ("tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-cu13-bindings")
"""The libraries are in NVIDIA's own package index alone, and what other indexes have under these names does without
them or is years old. Without TensorRT its vision graph is left out."""
SETS = {"small": SMALL, "all": ALL}
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def commands(name: str) -> list[str]:
    """Lines of shell that fetch a set of :data:`SETS` into ``wheels/``."""
    call = ["pip download --only-binary :all: --python-version 3.12 --implementation cp"]
    call += [f"--platform {platform}_x86_64" for platform in PLATFORMS]
    call += ["--no-deps"] * (name == "small")
    call += ["--dest wheels", *(f"'{wheel}'" if "<" in wheel else wheel for wheel in SETS[name])]
    lines = [" ".join(call)]
    if name == "all":
        lines.append(f"# and for TensorRT {', '.join(TENSORRT)}, with --no-deps, from NVIDIA's own package index")
    return lines
