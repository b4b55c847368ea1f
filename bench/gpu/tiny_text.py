# SPDX-License-Identifier: Apache-2.0
"""Short texts of a small random decoder on the device, both ways, with drafts: what a sanitizer looks at."""

from __future__ import annotations

import sys
from typing import Any

SPEC: dict[str, Any] = {
    "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp": 256, "vocab": 300,
    "max_positions": 320, "norm": "layernorm", "norm_position": "pre", "norm_eps": 1e-5, "activation": "gelu_tanh",
    "positions": "learned", "position_offset": 0, "tied_head": True,
}  # fmt: skip
KINDS = (
    ("none", "fp16", "fp16"), ("none", "bf16", "int8"), ("int8", "fp32", "int8"), ("int4", "fp32", "fp32"),
    ("none", "fp32", "fp32"),
)  # fmt: skip
"""Weights in the file, how float32 ones are kept on the device, cache: among them every kernel there is."""


def main() -> int:
    import numpy as np

    from edge.cuda import CudaDecoder
    from edge.decoder import GenerationOptions

    from ..reference import random_weights

    rng = np.random.default_rng(0)
    shape = (SPEC["layers"], SPEC["heads"], 150, SPEC["head_dim"])
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(2)]
    bias, first = rng.random((*shape[:1], 150), np.float32), rng.standard_normal(SPEC["vocab"], np.float32)
    options = GenerationOptions(max_new_tokens=12, repetition_penalty=1.2)
    for stored, kept, kv in KINDS:
        texts = []
        for way in ("steps", "persistent"):
            decoder = CudaDecoder(
                SPEC,
                random_weights(SPEC, stored),
                kv_dtype=kv,  # type: ignore[arg-type]
                weight_dtype=kept,  # type: ignore[arg-type]
                evidence_layers=[1],
                way=way,  # type: ignore[arg-type]
            )
            decoder.set_prefix(*arrays, bias)
            plain = decoder.generate(first, options.but(draft=False))
            script = [plain.token_ids[at : at + 1 + at % 7] for at in range(12)]
            drafted = decoder.generate(first, options, draft_script=script)
            if drafted.token_ids != plain.token_ids or not np.array_equal(drafted.logprobs, plain.logprobs):
                print(f"{stored} {kept} {kv} {way}: drafts change the text", file=sys.stderr)
                return 1
            texts.append(plain)
        if not np.array_equal(texts[0].logprobs, texts[1].logprobs):
            print(f"{stored} {kept} {kv}: the ways differ", file=sys.stderr)
            return 1
        print(f"{stored} {kept} {kv}: the same text both ways, with drafts and without", flush=True)
    print("texts agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
