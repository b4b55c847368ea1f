# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders with cross-attention beside PyTorch and optimum, whole reports of published sizes."""
