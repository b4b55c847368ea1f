# SPDX-License-Identifier: Apache-2.0
"""What the vision graph yields stays where it is: handed to the decoder by address, on the stand-in's memory."""

from __future__ import annotations

import ctypes
import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import decoder_of, prefix_of, spec_of, weights_of
from stand_in import StandIn

import edge
import edge._kernel as kernel
import edge.cuda
from edge.cuda import CudaDecoder
from edge.decoder import GenerationOptions
from edge.errors import ProcessingError
from edge.vision import dlpack
from edge.vision.backend import DeviceArray

SPEC = spec_of(layers=2, mlp=96)
WEIGHTS = weights_of(SPEC)
PREFIX = prefix_of(SPEC, 40)


def there(library: Path, array: np.ndarray) -> DeviceArray:
    buffer = kernel.DeviceBuffer(str(library), array.nbytes)
    buffer.write(array)

    def read() -> np.ndarray:
        back = np.empty(array.shape, np.float32)
        buffer.read(back)
        return back

    return DeviceArray(buffer.address, array.shape, buffer, read)


@pytest.mark.parametrize("kv", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("bias", ["soft", "long", None])
def test_a_prefix_on_the_device(library: Path, kv: Any, bias: str | None) -> None:
    decoder = CudaDecoder(SPEC, WEIGHTS, kv_dtype=kv, evidence_layers=[1], library=library)
    arrays = [PREFIX["keys"], PREFIX["values"], PREFIX[bias] if bias else None]
    texts = []
    for convert in (lambda a: a, lambda a: there(library, a)):
        decoder.set_prefix(*(None if a is None else convert(a) for a in arrays))
        texts.append(decoder.generate(PREFIX["first_logits"], GenerationOptions(max_new_tokens=4)))
    assert texts[0].token_ids == texts[1].token_ids
    np.testing.assert_array_equal(texts[0].logprobs, texts[1].logprobs)
    np.testing.assert_array_equal(texts[0].evidence, texts[1].evidence)


def test_moved_arrays_go_by_the_host(host_library: Path, stand_in: StandIn) -> None:
    before = stand_in.get("allocations")
    arrays = [there(host_library, PREFIX[name]) for name in ("keys", "values", "soft")]
    assert arrays[0].nbytes == PREFIX["keys"].nbytes
    arrays[0].move()
    assert arrays[0].address == 0
    assert stand_in.get("allocations") == before + 3  # its reader still holds the memory here
    np.testing.assert_array_equal(arrays[0].host(), PREFIX["keys"])
    decoder = CudaDecoder(SPEC, WEIGHTS, library=host_library)
    decoder.set_prefix(*arrays)
    got = decoder.generate(PREFIX["first_logits"], GenerationOptions(max_new_tokens=3)).token_ids
    want = decoder_of(SPEC, WEIGHTS, PREFIX).generate(PREFIX["first_logits"], max_new_tokens=3).token_ids
    assert got == want


def test_what_does_not_lie_there_is_refused(host_library: Path) -> None:
    decoder = CudaDecoder(SPEC, WEIGHTS, library=host_library)
    keys, values, bias = (there(host_library, PREFIX[name]) for name in ("keys", "values", "soft"))
    host = DeviceArray(PREFIX["keys"].ctypes.data, PREFIX["keys"].shape, None, lambda: PREFIX["keys"])
    with pytest.raises(ProcessingError, match="does not lie in the memory of the GPU"):
        decoder.set_prefix(keys, host)
    for wrong in (
        (keys, there(host_library, PREFIX["values"][:, :, :-1].copy()), bias),
        (there(host_library, PREFIX["keys"][:1].copy()), there(host_library, PREFIX["values"][:1].copy()), None),
        (keys, values, there(host_library, PREFIX["soft"][:1].copy())),
    ):
        with pytest.raises(ProcessingError, match="another shape"):
            decoder.set_prefix(*wrong)
    with pytest.raises(ProcessingError, match="not 40"):
        decoder.set_prefix(keys, values, there(host_library, PREFIX["soft"][:, :39].copy()))
    with pytest.raises(ProcessingError, match="set_prefix must be called first"):  # none of them has been taken
        decoder.forward([1])


class Producer:
    """An array of another framework on the device, by DLPack."""

    def __init__(self, buffer: Any, array: np.ndarray, **changes: Any) -> None:
        self.buffer, self.given_back, self.where = buffer, 0, changes.pop("where", (2, 0))
        sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
        strides = changes.pop("strides", None)
        self.strides = (ctypes.c_int64 * array.ndim)(*strides) if strides else None
        offset = changes.pop("offset", 0)
        fields = {"code": 2, "bits": 32, "lanes": 1, "byte_offset": offset} | changes
        self.managed = dlpack._Managed()
        self.managed.tensor = dlpack._Tensor(
            data=buffer.address - offset, device_type=self.where[0], device_id=self.where[1], ndim=array.ndim,
            shape=sizes, strides=self.strides, **fields,
        )  # fmt: skip
        self.managed.deleter = dlpack._Deleter(self._deleted)
        self.name = b"dltensor"

    def _deleted(self, managed: Any) -> None:
        self.given_back += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where

    def __dlpack__(self, *, stream: int) -> Any:
        assert stream == 1
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.managed), self.name, None)


def test_arrays_of_other_frameworks(host_library: Path) -> None:
    """Taken by their pointer and given back afterwards; what is not float32 in a row is refused, and not taken."""
    decoder = CudaDecoder(SPEC, WEIGHTS, library=host_library)
    names = ("keys", "values", "soft")
    buffers = [there(host_library, PREFIX[name])._owner for name in names]
    whole = [int(np.prod(PREFIX["keys"].shape[at + 1 :])) for at in range(4)]
    changes: list[dict[str, Any]] = [{}, {"strides": whole}, {"offset": 64}]
    arrays = [Producer(b, PREFIX[n], **c) for b, n, c in zip(buffers, names, changes, strict=True)]
    decoder.set_prefix(*arrays)
    got = decoder.generate(PREFIX["first_logits"], GenerationOptions(max_new_tokens=3)).token_ids
    want = decoder_of(SPEC, WEIGHTS, PREFIX).generate(PREFIX["first_logits"], max_new_tokens=3).token_ids
    assert got == want
    gc.collect()
    assert [array.given_back for array in arrays] == [1, 1, 1]
    one = dlpack.from_dlpack(arrays[0], host_library)
    np.testing.assert_array_equal(one.host(), PREFIX["keys"])
    del one
    assert arrays[0].given_back == 2
    swapped = [whole[0], whole[2], whole[1], whole[3]]
    for wrong, why in (
        ({"bits": 16}, "float32 and C-contiguous"),
        ({"code": 0}, "float32 and C-contiguous"),
        ({"strides": swapped}, "float32 and C-contiguous"),
        ({"where": (2, 1)}, "another GPU"),
        ({"where": (13, 0)}, "managed memory"),
    ):
        bad = Producer(buffers[0], PREFIX["keys"], **wrong)
        with pytest.raises(ProcessingError, match=why):
            decoder.set_prefix(bad, arrays[1], arrays[2])
        assert bad.given_back == 0
    arrays[1].name = b"dltensor_versioned"
    with pytest.raises(ProcessingError, match="another version of DLPack"):
        decoder.set_prefix(*arrays)


@pytest.mark.gpu
def test_arrays_of_pytorch(device_library: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    decoder = CudaDecoder(SPEC, WEIGHTS, library=device_library)
    decoder.set_prefix(*(torch.from_numpy(PREFIX[name]).cuda() for name in ("keys", "values", "soft")))
    got = decoder.generate(PREFIX["first_logits"], GenerationOptions(max_new_tokens=3)).token_ids
    want = decoder_of(SPEC, WEIGHTS, PREFIX).generate(PREFIX["first_logits"], max_new_tokens=3).token_ids
    assert got == want


def test_buffers(host_library: Path, stand_in: StandIn) -> None:
    buffer = kernel.DeviceBuffer(str(host_library), 16)
    with pytest.raises(ValueError, match="C-contiguous and have 16 bytes"):
        buffer.write(np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="C-contiguous"):
        buffer.read(np.zeros(8, np.float32)[::2])
    stand_in.set("memory", 0)
    with pytest.raises(kernel.DeviceUnusable, match="out of memory"):
        kernel.DeviceBuffer(str(host_library), 16)


def test_io_binding(
    bundle: Path, film: np.ndarray, host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real ONNX Runtime binds outputs to memory of a device (here: the CPU's, which the stand-in takes for its
    own), and the decoder on the device reads them there."""
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    stand_in.set("any_pointer", 1)
    want = edge.load(bundle, device="cpu", threads=1)
    engine = edge.load(bundle, device="auto", threads=1)
    assert not engine._vision.stays  # the graph runs on the CPU
    engine._vision.stays = True
    seen = engine._vision.run(np.zeros((1, 3, 64, 64), np.float32), bias=True)
    assert isinstance(seen.keys, DeviceArray)
    assert isinstance(seen.there, DeviceArray)
    np.testing.assert_array_equal(seen.there.host(), seen.key_bias)
    first, second = (engine.open(picture) for picture in (film, film[::-1].copy()))
    for session, picture in ((second, film[::-1].copy()), (first, film), (second, film[::-1].copy())):
        assert session.report(max_new_tokens=6).token_ids == want.report(picture, max_new_tokens=6).token_ids


def test_an_output_that_did_not_stay_is_told(bundle: Path) -> None:
    from edge.errors import DeviceError
    from edge.vision.ort import OrtBackend

    backend = OrtBackend(bundle / "vision.onnx", device="cpu", threads=1)
    feed = {"pixels": np.zeros((1, 3, 64, 64), np.float32), "bias_switch": np.ones(1, np.float32)}

    class Session:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def io_binding(self) -> Any:
            binding = session.io_binding()
            bind = binding.bind_output
            binding.bind_output = lambda name, device, number: bind(name, "cpu", number)
            return binding

    session = backend._session
    backend._session, backend.device = Session(), "cuda"
    with pytest.raises(DeviceError, match="left prefix_keys on cpu, not on cuda"):
        backend.run_there(feed, ["first_logits", "prefix_keys"], ["prefix_keys"])


def test_partial_fallback_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that may not use the CPU comes first; where it cannot be, one that may, and a warning."""
    import onnxruntime

    from edge.vision.ort import OrtBackend

    caplog.set_level(logging.INFO, "edge")
    real, tried = onnxruntime.InferenceSession, []

    def session(path: str, options: Any, providers: list[str], enable_fallback: int) -> Any:
        try:
            strict = options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        except RuntimeError:  # not set
            strict = False
        tried.append((strict, list(providers)))
        if strict:
            raise RuntimeError("a node is on the CPU")
        made = real(path, providers=["CPUExecutionProvider"])
        made.get_providers = lambda: names
        return made

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    backend = OrtBackend(bundle / "vision.onnx", device="cuda", threads=1)
    assert backend.device == "cuda"
    exact = (names[0], {"use_tf32": "0"})
    assert tried == [
        (True, [(names[0], {"use_tf32": "0", "enable_cuda_graph": "1"})]),
        (True, [exact]),
        (False, [exact, names[1]]),
    ]
    assert "parts of vision.onnx run on the CPU" in caplog.text
    assert "--gpu-graph" in caplog.text
