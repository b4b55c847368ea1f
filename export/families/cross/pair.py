# SPDX-License-Identifier: Apache-2.0
"""An encoder and a decoder side by side, where ``VisionEncoderDecoderModel`` does not take such an encoder."""

from __future__ import annotations

from typing import Any

from torch import nn


class EncoderDecoder(nn.Module):
    """As much of ``VisionEncoderDecoderModel`` as an export needs.

    Parameters
    ----------
    config
        With ``encoder`` and ``decoder``, as of the library.
    encoder : Module
        Its output's ``last_hidden_state`` is what the cross-attention reads.
    decoder : Module
        The library's, with a language model's head.
    """

    def __init__(self, config: Any, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.config, self.encoder, self.decoder = config, encoder, decoder
