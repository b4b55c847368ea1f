# SPDX-License-Identifier: Apache-2.0
"""edge.decoder: options, files, default types, typed errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small import prefix_of, spec_of, weights_of

from edge import _kernel
from edge.decoder import Decoder, Generation, GenerationOptions, cancel_token, isa_selected, isa_supported
from edge.errors import BundleError, DeviceError, ProcessingError, UsageError
from edge.weights import check_weights

SPEC = spec_of()
PREFIX = prefix_of(SPEC, 30)
OPTIONS = GenerationOptions(max_new_tokens=6, repetition_penalty=1.2)


def ready(precision: str = "fp32", **options: object) -> Decoder:
    decoder = Decoder(SPEC, weights_of(SPEC, precision), threads=1, **options)
    decoder.set_prefix(PREFIX["keys"], PREFIX["values"], PREFIX["soft"])
    return decoder


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_from_files(tmp_path: Path, precision: str) -> None:
    weights = weights_of(SPEC, precision)
    save_file(weights, tmp_path / "decoder.safetensors")
    mapped = Decoder.from_files(SPEC, tmp_path / "decoder.safetensors", threads=1)
    mapped.set_prefix(PREFIX["keys"], PREFIX["values"], PREFIX["soft"])
    direct = ready(precision)
    assert mapped.kv_dtype == direct.kv_dtype == ("fp32" if precision == "fp32" else "fp16")
    ids = [1, 2, 3]
    np.testing.assert_array_equal(mapped.forward(ids), direct.forward(ids))
    assert mapped.text_rows == 3
    element = {"fp32": 4, "int8": 1, "int4": 0.5 + 2 / 32}[precision]
    matrices = SPEC["layers"] * 12 * 64 * 64 + 211 * 64
    cache = SPEC["layers"] * 33 * 64 * 2 * (4 if precision == "fp32" else 2)
    assert mapped.bytes_per_token == matrices * element + cache


def test_generation() -> None:
    decoder = ready(evidence_layers=[2])
    result = decoder.generate(PREFIX["first_logits"], OPTIONS)
    assert len(result.token_ids) == 6
    assert result.logprobs.shape == (6,)
    assert result.evidence.shape == (6, 30)
    assert (result.evidence[1:].sum(1) > 0).all()
    assert result.stop_reason == "length"
    assert result.decode_seconds > 0
    stopped = decoder.generate(PREFIX["first_logits"], OPTIONS.but(stop_ids=(result.token_ids[2],)))
    assert stopped.stop_reason == "stop"
    assert ready().generate(PREFIX["first_logits"], OPTIONS).evidence.shape == (6, 0)


def test_callback_and_cancel() -> None:
    decoder, seen = ready(), []
    result = decoder.generate(PREFIX["first_logits"], OPTIONS, on_token=lambda i, p: seen.append(i))
    assert seen == result.token_ids

    def fail(token: int, logprob: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.generate(PREFIX["first_logits"], OPTIONS, on_token=fail)
    cancel = cancel_token()
    cancel.cancel()
    result = decoder.generate(PREFIX["first_logits"], OPTIONS, cancel=cancel)
    assert result.stop_reason == "cancelled"


def test_options_of_a_manifest() -> None:
    block = {"max_new_tokens": 7, "stop_ids": [1], "cut_at_sentence": True, "evidence_layers": [0]}
    options = GenerationOptions.from_manifest(block, repetition_penalty=1.1, max_new_tokens=None)
    assert options == GenerationOptions(max_new_tokens=7, stop_ids=(1,), repetition_penalty=1.1)
    assert GenerationOptions.from_manifest(block, beams=3).beams == 3
    with pytest.raises(UsageError, match="rays"):
        GenerationOptions.from_manifest(block, rays=3)


def test_int4_needs_whole_groups() -> None:
    spec = spec_of(mlp=80)
    weights = weights_of(spec, "int4")
    check_weights(weights, spec)
    assert weights["layers.0.mlp_out.weight"].dtype == np.int8
    name = "layers.0.mlp_out.weight"
    weights |= {name: np.zeros((64, 40), np.uint8), f"{name}.scale": np.zeros((64, 2), np.float16)}
    with pytest.raises(BundleError, match="80 columns are not whole groups of 32"):
        check_weights(weights, spec)


def test_errors() -> None:
    weights = weights_of(SPEC)
    with pytest.raises(BundleError, match="norm = 'rmsnorm'"):
        Decoder(SPEC | {"norm": "rmsnorm"}, weights, threads=1)
    with pytest.raises(BundleError, match=r"missing final_norm\.bias"):
        Decoder(SPEC, {k: v for k, v in weights.items() if k != "final_norm.bias"}, threads=1)
    with pytest.raises(DeviceError, match="choices"):
        Decoder(SPEC, weights, threads=1, isa="avx9")
    with pytest.raises(UsageError, match="threads"):
        Decoder(SPEC, weights, threads=0)
    with pytest.raises(UsageError, match="kv_dtype"):
        Decoder(SPEC, weights, threads=1, kv_dtype="int3")  # type: ignore[arg-type]
    decoder = ready()
    for ids in ([999], [-1], [2**32 + 1], [0.5]):
        with pytest.raises(ProcessingError, match="below the vocabulary"):
            decoder.forward(ids)
    with pytest.raises(ProcessingError, match="temperature"):
        decoder.generate(PREFIX["first_logits"], OPTIONS.but(temperature=-1))
    with pytest.raises(ProcessingError):
        decoder.generate(PREFIX["first_logits"], OPTIONS.but(max_new_tokens="many"))
    with pytest.raises(ProcessingError, match="keys"):
        decoder.set_prefix(PREFIX["keys"][:1], PREFIX["values"])


def test_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isa_supported() == _kernel.isa_supported()
    monkeypatch.setenv("EDGE_ISA", "generic")
    assert isa_selected() == ready().isa == "generic"
    monkeypatch.setenv("EDGE_ISA", "altivec")
    with pytest.raises(DeviceError, match="altivec"):
        ready()


def test_a_busy_machine_changes_no_bit() -> None:
    """With as many busy programs as processors the team of threads shrinks and grows while it writes."""
    spec = spec_of(layers=2, hidden=256, heads=4, kv_heads=4, head_dim=64, mlp=1024, max_positions=2048)
    weights, prefix = weights_of(spec, "int8"), prefix_of(spec, 1024)
    options = OPTIONS.but(max_new_tokens=60, suppressed_ids=range(9))

    def write(threads: int) -> Generation:
        decoder = Decoder(spec, weights, threads=threads, evidence_layers=[1])
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        return decoder.generate(prefix["first_logits"], options)

    alone = write(1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(min(os.cpu_count() or 1, 8))]
    try:
        results = [write(threads) for threads in (4, 3)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    for result in results:
        assert result.token_ids == alone.token_ids
        np.testing.assert_array_equal(result.logprobs, alone.logprobs)
        np.testing.assert_array_equal(result.evidence, alone.evidence)
