# SPDX-License-Identifier: Apache-2.0
"""Hugging Face ``VisionEncoderDecoderModel`` folders: an image encoder and a text decoder that reads it by
cross-attention."""
