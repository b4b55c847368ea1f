# SPDX-License-Identifier: Apache-2.0
"""Figures of a CUDA device: the decoder, whole reports, peers in PyTorch and ONNX Runtime, a projection."""
