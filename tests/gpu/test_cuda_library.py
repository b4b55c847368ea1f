# SPDX-License-Identifier: Apache-2.0
"""Opening the CUDA library: what is missing is told in one sentence, and the CPU serves."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import spec_of, weights_of
from stand_in import DEVICE, ROOT, StandIn, device_here

from edge.cuda import LIBRARY, CudaDecoder, cuda_device, library_path
from edge.cuda_check import check_agreement
from edge.decoder import Decoder
from edge.errors import BundleError, DeviceError, UsageError

SPEC = spec_of(layers=1, mlp=32)
WEIGHTS = weights_of(SPEC)


def compiled(folder: Path, source: str) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler here")
    (folder / "library.c").write_text(source)
    library = folder / LIBRARY
    subprocess.run([compiler, "-shared", "-fPIC", str(folder / "library.c"), "-o", str(library)], check=True)
    return library


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="this build has no CUDA decoding library") as error:
        cuda_device(tmp_path / LIBRARY)
    assert "\n" not in str(error.value)
    assert 80 <= error.value.exit_code <= 99


def test_not_a_library(tmp_path: Path) -> None:
    (tmp_path / LIBRARY).write_text("not a library")
    with pytest.raises(DeviceError, match="does not load"):
        cuda_device(tmp_path / LIBRARY)


@pytest.mark.parametrize(
    "source",
    [
        "int other(void) { return 0; }",
        "const void* edge_cuda_api(unsigned abi) { return abi == 999 ? &edge_cuda_api : 0; }",
        "const void* edge_cuda_api(unsigned abi) { static unsigned table[64] = {4, 64}; (void)abi; return table; }",
        "const void* edge_cuda_api(unsigned abi) { static unsigned table[64] = {3, 8}; (void)abi; return table; }",
    ],
)
def test_another_version(tmp_path: Path, source: str) -> None:
    with pytest.raises(DeviceError, match="of another version"):
        cuda_device(compiled(tmp_path, source))


def test_devices(host_library: Path, stand_in: StandIn) -> None:
    device = cuda_device(host_library)
    assert (device.name, device.capability) == ("host stand-in", (9, 0))
    stand_in.set("capability", 75)
    with pytest.raises(DeviceError, match=r"compute capability 7\.5; this build runs on 8\.0"):
        cuda_device(host_library)
    stand_in.set("devices", 0)
    with pytest.raises(DeviceError, match="no CUDA device can be used here"):
        CudaDecoder(SPEC, WEIGHTS, library=host_library)


def test_too_little_memory(host_library: Path, stand_in: StandIn) -> None:
    stand_in.set("memory", 1 << 20)
    with pytest.raises(DeviceError, match=r"not enough GPU memory: the decoder needs \d+ MiB, 0 MiB|1 MiB are free"):
        CudaDecoder(SPEC, WEIGHTS, library=host_library)


def test_refusals(host_library: Path) -> None:
    wide = spec_of(layers=1, hidden=512, heads=1, kv_heads=1, head_dim=512, mlp=32)
    with pytest.raises(DeviceError, match="head_dim of at most 256"):
        CudaDecoder(wide, weights_of(wide), library=host_library)
    with pytest.raises(UsageError, match="kv_dtype 'fp8'"):
        CudaDecoder(SPEC, WEIGHTS, library=host_library, kv_dtype="fp8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="EDGE_CUDA_WEIGHTS 'fp8'"):
        CudaDecoder(SPEC, WEIGHTS, library=host_library, weight_dtype="fp8")  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="rmsnorm"):
        CudaDecoder(SPEC | {"norm": "rmsnorm"}, WEIGHTS, library=host_library)


@pytest.mark.parametrize(
    ("precision", "kept"), [("fp32", "fp32"), ("fp32", "fp16"), ("fp32", "bf16"), ("int4", "fp32")]
)
def test_agreement(host_library: Path, precision: str, kept: str) -> None:
    weights = weights_of(SPEC, precision)
    decoder = CudaDecoder(SPEC, weights, library=host_library, weight_dtype=kept)  # type: ignore[arg-type]
    check_agreement(decoder, Decoder(SPEC, weights, threads=1))
    assert decoder.isa == "cuda"
    wrong = dict(weights)
    wrong["layers.0.attn_out.bias"] = weights["layers.0.attn_out.bias"] + np.linspace(-2, 2, 64, dtype=np.float32)
    with pytest.raises(DeviceError, match="does not compute what the CPU computes"):
        check_agreement(decoder, Decoder(SPEC, wrong, threads=1))


def test_a_persistent_kernel_that_writes_another_text(
    host_library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out, or an error where it was asked for: steps are what has been compared with the CPU."""
    cpu, real = Decoder(SPEC, WEIGHTS, threads=1), CudaDecoder.generate

    def generate(self: CudaDecoder, *args: Any, **more: Any) -> Any:
        found = real(self, *args, **more)
        return dataclasses.replace(found, logprobs=found.logprobs + np.float32(1e-6 * (self.way == "persistent")))

    monkeypatch.setattr(CudaDecoder, "generate", generate)
    decoder = CudaDecoder(SPEC, WEIGHTS, library=host_library, way="auto")
    assert decoder.ways == ("steps", "persistent")
    check_agreement(decoder, cpu)
    assert (decoder.way, decoder.ways) == ("steps", ("steps",))
    assert "the persistent kernel writes another text on host stand-in than recorded steps do" in caplog.text
    asked = CudaDecoder(SPEC, WEIGHTS, library=host_library, way="persistent")
    with pytest.raises(DeviceError, match="writes another text"):
        check_agreement(asked, cpu)


@pytest.fixture(scope="session")
def built() -> Path:
    """The real library: what $EDGE_TEST_CUDA_BUILD compiles (awaited), else this build's own."""
    folder = os.environ.get("EDGE_TEST_CUDA_BUILD")
    if folder is None:
        if not library_path().exists():
            pytest.skip("this build has no CUDA decoding library (EDGE_CUDA was off, or nvcc missing)")
        return library_path()
    end = time.monotonic() + 600
    while not (status := Path(folder) / "status").exists():
        assert time.monotonic() < end, f"nothing has been built in {folder}"
        time.sleep(0.5)
    assert status.read_text().strip() == "0", (Path(folder) / "log").read_text()[-3000:]
    return Path(folder) / LIBRARY


def test_this_build(built: Path) -> None:
    """Without a driver it loads, and says what is missing."""
    if device_here():
        assert cuda_device(built).capability >= (8, 0)
        return
    with pytest.raises(DeviceError, match=r"the NVIDIA driver is missing or too old|no CUDA device can be used here"):
        cuda_device(built)
    with pytest.raises(DeviceError):
        CudaDecoder(SPEC, WEIGHTS, library=built)


@pytest.mark.parametrize(("cards", "built"), [("9.0\n8.9\n9.0", "[sm_90,sm_89]"), ("7.5", ""), ("", "")])
def test_built_for_the_cards_that_are_here(tmp_path: Path, cards: str, built: str) -> None:
    """What pip does without being told: the library for this machine's GPUs, and none where there are none."""
    cmake = shutil.which("cmake")
    if cmake is None or (built and shutil.which("nvcc") is None):
        pytest.skip("no CMake, or no nvcc here")
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f"#!/bin/sh\nprintf '{cards}'\n" if cards else "#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    call = [cmake, "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DEDGE_CUDA=HERE", "-DEDGE_PYTHON=OFF"]
    environment = os.environ | {"PATH": f"{smi.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    flags = tmp_path / "build" / "csrc" / "cuda" / "CMakeFiles" / "edge_cuda.dir" / "flags.make"
    if built:
        assert f"code={built}" in flags.read_text()
    else:
        assert "not built, there is no GPU for it here" in done.stdout
        assert not flags.exists()


def test_only_one_name_is_exported(built: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm here")
    table = subprocess.run(["nm", "-D", "--defined-only", str(built)], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in table.stdout.splitlines()] == ["edge_cuda_api"]


KERNELS = len([path for path in DEVICE.glob("*.cu") if path.stem != "probe"])
"""Sources with kernels."""
PTX, MACHINE = 1, 2


def architectures(data: bytes) -> Counter[tuple[int, int]]:
    """How many sources a library holds as (:data:`PTX` or :data:`MACHINE`, architecture)."""
    parts: Counter[tuple[int, int]] = Counter()
    start = 0
    while (start := data.find(struct.pack("<I", 0xBA55ED50), start)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, start)
        at, start = start + header, start + header + size
        while at < start:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            parts[kind, struct.unpack_from("<I", data, at + 28)[0]] += 1
            at += header + size
    return parts


def check_architectures(parts: Counter[tuple[int, int]], *, all_of_them: bool, here: int | None) -> None:
    """Of a build for everybody all architectures; of any other all sources alike, and this machine's card."""
    if all_of_them:
        assert parts == {(PTX, 80): KERNELS} | {(MACHINE, machine): KERNELS for machine in (80, 86, 89, 90, 120)}
        return
    assert parts, "there is no code for any device in it"
    assert set(parts.values()) == {KERNELS}
    if here is not None:
        # Machine code of the same family, or PTX that the driver compiles.
        assert any(
            (kind == MACHINE and built // 10 == here // 10 and built <= here) or (kind == PTX and built <= here)
            for kind, built in parts
        ), f"nothing in it runs on {here}: {sorted(parts)}"


def test_every_architecture_is_in_it(built: Path) -> None:
    """Every source with kernels in machine code for five architectures, and in PTX for all others from 8.0 on; in what
    was built for one machine, for the card of this one."""
    here = None
    if device_here():
        major, minor = cuda_device(built).capability
        here = 10 * major + minor
    check_architectures(architectures(built.read_bytes()), all_of_them="EDGE_TEST_CUDA_BUILD" in os.environ, here=here)


def test_architectures_that_are_missing_are_told() -> None:
    def entry(kind: int, built: int) -> bytes:
        return struct.pack("<HHIQ", kind, 0, 64, 8) + struct.pack("<12xI", built).ljust(48, b"\0") + b"\0" * 8

    def of(*kinds: tuple[int, int], times: int = KERNELS) -> Counter[tuple[int, int]]:
        body = b"".join(entry(*kind) for kind in kinds)
        return architectures(b"ELF" + (struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + b"xyz") * times)

    every = [(PTX, 80), *((MACHINE, machine) for machine in (80, 86, 89, 90, 120))]
    assert of(*every) == dict.fromkeys(every, KERNELS)
    check_architectures(of(*every), all_of_them=True, here=90)
    check_architectures(of((MACHINE, 90)), all_of_them=False, here=90)
    check_architectures(of((MACHINE, 80)), all_of_them=False, here=86)
    check_architectures(of((PTX, 80)), all_of_them=False, here=103)
    for parts, wanted in (
        (of((MACHINE, 90)), {"all_of_them": True, "here": 90}),
        (of((MACHINE, 80)), {"all_of_them": False, "here": 90}),
        (of((MACHINE, 89)), {"all_of_them": False, "here": 86}),
        (of((MACHINE, 90), times=KERNELS - 1), {"all_of_them": False, "here": 90}),
        (Counter(), {"all_of_them": False, "here": None}),
    ):
        with pytest.raises(AssertionError):
            check_architectures(parts, **wanted)  # type: ignore[arg-type]
