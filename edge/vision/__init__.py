# SPDX-License-Identifier: Apache-2.0
"""The vision graph: pixels to key bias, mask, and the prefix K/V of every decoder layer with the first logits, or the
embeddings that the kernel computes these from.

One ONNX graph, run by ONNX Runtime (:mod:`edge.vision.ort`) or OpenVINO (:mod:`edge.vision.ov`). Which of them is
:mod:`edge.vision.choice`'s to say; what both must give is checked in :mod:`edge.vision.session`.
"""

from edge.vision.choice import RUNTIMES, check_device, check_runtime
from edge.vision.session import VisionOutput, VisionSession

__all__ = ["RUNTIMES", "VisionOutput", "VisionSession", "check_device", "check_runtime"]
