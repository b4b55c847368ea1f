# SPDX-License-Identifier: Apache-2.0
"""The parts of ``edge-bench``: bytes per token, percentiles, random weights and their cache, the fall-back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_bench import bandwidth, cli, reference, stats
from edge_bench.decoder_part import run_decoder
from edge_bench.machine import cache_bytes, resident_mb
from edge_bench.traffic import SCREEN_FROM, mean_keys, traffic, weight_bytes

from edge import decoder as kernel
from edge.errors import ProcessingError, UsageError
from edge.weights import check_weights, expected_shapes

SMALL = {**reference.SPEC, "layers": 2, "hidden": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64}
SMALL |= {"vocab": 300, "max_positions": 128}


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).random(11).tolist()
    for percent in (0, 5, 50, 95, 99, 100):
        assert stats.percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert stats.summary([2.0]) == {"p50": 2.0, "p95": 2.0, "p99": 2.0}


@pytest.mark.parametrize("tokens", [2, 3, 100])
def test_mean_keys_is_the_mean_over_the_decode_steps(tokens: int) -> None:
    seen = [1024 + 2 + fed for fed in range(1, tokens)]
    assert mean_keys(1024, 2, tokens) == pytest.approx(sum(seen) / len(seen))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_weight_bytes_are_the_kernels_and_its_vectors(quantize: str, tied: bool) -> None:
    spec = {**SMALL, "tied_head": tied}
    weights = reference.random_weights(spec, quantize)
    check_weights(weights, spec)
    own = weight_bytes(weights, spec)
    core = kernel.Decoder(spec, weights, threads=1)._kernel.weight_bytes
    left_out = ("prefill.",) if tied else ("prefill.", "embed.")
    vectors = sum(a.nbytes for name, a in weights.items() if a.ndim == 1 and not name.startswith(left_out))
    assert own == core + vectors
    assert any(name.startswith("prefill.") for name in weights) == (quantize == "int4")


@pytest.mark.parametrize("tied", [True, False])
def test_a_screened_head_counts_a_byte_per_weight(tied: bool) -> None:
    spec = {**SMALL, "tied_head": tied, "vocab": (SCREEN_FROM >> 2) // SMALL["hidden"] + 1}
    weights = reference.random_weights(spec, "none")
    left_out = ("positions.",) if tied else ("positions.", "embed.")
    stored = sum(a.nbytes for name, a in weights.items() if not name.startswith(left_out))
    assert weight_bytes(weights, spec, screened=False) == stored
    assert stored - weight_bytes(weights, spec) == (3 * SMALL["hidden"] - 8) * spec["vocab"]
    for screen in (True, False):
        core = kernel.Decoder(spec, weights, threads=1, screen_head=screen)._kernel.weight_bytes
        vectors = sum(a.nbytes for name, a in weights.items() if a.ndim == 1 and not name.startswith(left_out))
        scales = 8 * spec["vocab"] if screen else 0
        assert weight_bytes(weights, spec, screened=screen) == core + vectors + scales


def test_the_reference_reads_what_its_geometry_says() -> None:
    """123.5 million weights and 19.8 million cached numbers per token at 1074 keys."""
    sizes = {name: math.prod(shape) for name, shape, _ in expected_shapes(reference.SPEC)}
    del sizes["positions.weight"]
    assert sum(sizes.values()) == pytest.approx(123.6e6, rel=2e-3)
    fake = {name: np.broadcast_to(np.float32(0), (size,)) for name, size in sizes.items()}
    moved = traffic(fake, reference.SPEC, kv_dtype="fp32", prefix=1024, prompt=0, tokens=100, screened=False)
    assert moved.mean_keys == 1074
    assert moved.cache == 4 * 12 * 2 * 768 * 1074
    assert moved.total == pytest.approx(573e6, rel=5e-3)


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_random_weights_repeat(quantize: str) -> None:
    first, second = (reference.random_weights(SMALL, quantize) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    other = reference.random_weights(SMALL, quantize, seed=1)
    assert not np.array_equal(first["embed.weight"], other["embed.weight"])
    exact = reference.random_weights(SMALL)["embed.weight"]
    if quantize != "none":
        near = first["embed.weight"] * first["embed.weight.scale"][:, None]
        assert np.abs(near - exact).max() <= 0.51 * first["embed.weight.scale"].max()


@pytest.mark.parametrize(("quantize", "kv_dtype"), [("none", "fp32"), ("int8", "fp16"), ("int4", "int8")])
def test_decoder_part(quantize: str, kv_dtype: str) -> None:
    def load() -> Any:
        return reference.random_weights(SMALL, quantize)

    given = "int8" if kv_dtype == "int8" else None
    part = run_decoder(SMALL, load, prefix=24, tokens=12, repeat=2, threads=1, kv_dtype=given, name="small")
    assert [sorted(run) for run in part.runs] == [["decode", "first_token", "total"]] * 2
    assert part.model["kv_dtype"] == kv_dtype
    per_head = {"fp32": 4, "fp16": 2, "int8": 1}[kv_dtype] * SMALL["head_dim"] + 4 * (kv_dtype == "int8")
    assert part.traffic.cache == 2 * SMALL["layers"] * SMALL["heads"] * (24 + 6) * per_head
    text = part.to_dict(10.0)
    assert text["share_of_bandwidth"] == pytest.approx(text["read_gbps"] / 10.0)
    assert set(text["token_ms"]) == {"min", "p50", "p95", "p99"}
    assert text["token_ms"]["min"] <= text["token_ms"]["p50"]
    with pytest.raises(UsageError, match="at most 104"):
        run_decoder(SMALL, load, prefix=24, tokens=105, repeat=1, threads=1, name="small")


@pytest.fixture
def small_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reference shape made small, an empty cache, and no exporter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reference, "SPEC", SMALL)
    monkeypatch.setattr(reference, "PREFIX", 24)
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    return tmp_path / "cache" / "edge-report" / "bench"


def test_weights_are_made_once(small_reference: Path) -> None:
    said: list[str] = []
    first = reference.decoder_weights("int8", said.append)
    (path,) = small_reference.iterdir()
    assert str(path) in said.pop()
    again = reference.decoder_weights("int8", said.append)
    assert said == []
    assert all(np.array_equal(first[name], again[name]) for name in first)
    del first, again
    path.write_bytes(path.read_bytes()[:1000])
    reference.decoder_weights("int8", said.append)
    assert len(said) == 1
    reference.decoder_weights("int8", said.append, refresh=True)
    assert len(said) == 2
    assert list(small_reference.iterdir()) == [path]


def test_decoder_alone_without_the_exporter(
    small_reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    arguments = ["--shape", "reference", "--quantize", "int8", "--tokens", "8", "--repeat", "2", "--threads", "1"]
    assert cli.main([*arguments, "--buffer-mb", "16", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "the decoder alone" in err
    assert 'pip install "edge-report[export]"' in err
    assert "decoder alone" in out
    result = json.loads(path.read_text())
    assert result["headline"] == "decoder"
    assert result["reports"] is None
    assert result["stages"] == result["decoder"]["stages"]
    assert any("no whole reports" in note for note in result["notes"])


def test_bandwidth_beside_each_run() -> None:
    """A run that met half the bandwidth is compared with that half."""
    speeds = iter([10.0, 20.0, 4.0, 6.0])
    part = run_decoder(
        SMALL,
        lambda: reference.random_weights(SMALL),
        prefix=24,
        tokens=12,
        repeat=2,
        threads=1,
        name="small",
        bandwidth=lambda: next(speeds),
    )
    assert part.beside_gbps == [15.0, 5.0]
    read = [part.traffic.total * 11 / run["decode"] / 1e6 for run in part.runs]
    assert part.shares == pytest.approx([read[0] / 15, read[1] / 5])
    assert part.to_dict(1.0)["share_of_bandwidth"] == pytest.approx(sum(part.shares) / 2)


def test_read_meter_refuses_nonsense() -> None:
    meter = kernel._kernel().ReadMeter
    assert len(meter(1 << 20, 2).passes(0.0)) == 3
    assert min(meter(1 << 20, 2).passes(0.01)) > 0
    for size, threads in ((0, 1), (1 << 20, 0), (1 << 60, 1)):
        with pytest.raises(ValueError):
            meter(size, threads)
    for seconds in (-1.0, math.nan):
        with pytest.raises(ValueError):
            meter(1 << 20, 1).passes(seconds)


def test_a_meter_that_cannot_measure_says_so() -> None:
    with bandwidth.Meter(0, 1) as meter, pytest.raises(ProcessingError, match="one cache line per thread"):
        meter.passes()


def test_sizes_and_memory() -> None:
    assert cache_bytes("32768K") == 32 << 20
    assert cache_bytes("1M") == 1 << 20
    assert cache_bytes(None) == 0
    now, peak = resident_mb()
    assert (now is None) == (peak is None)
    assert now is None or 1 < now <= peak
