# SPDX-License-Identifier: Apache-2.0
"""The reference model's true shapes with random weights, made once and kept outside the repository.

Decoder weights come from NumPy alone. The whole model (vision too) needs the exporter and PyTorch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle import Bundle
from edge.errors import BundleError, EdgeError, OutputError, ProcessingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 2
"""Part of the file names: raise it when what is made changes."""
BUNDLE_VERSION = 5
"""The same for whole bundles; 5: in OpenVINO's graph sums have their channels last."""
SHAPE = "reference"
"""Name of the shape in the exporter."""
SEED = 0
PREFIX = 1024
SPEC: dict[str, Any] = {
    "layers": 12,
    "hidden": 768,
    "heads": 12,
    "kv_heads": 12,
    "head_dim": 64,
    "mlp": 3072,
    "vocab": 50257,
    "max_positions": 2048,
    "norm": "layernorm",
    "norm_position": "pre",
    "norm_eps": 1e-5,
    "activation": "gelu_tanh",
    "positions": "learned",
    "position_offset": 0,
    "tied_head": True,
}
PRECISIONS = {"none": "fp32", "int8": "int8", "int4": "int4", "int4-head": "int4-head"}
CHECKPOINT_AND_BUNDLE_BYTES = 4 << 30
RANDOM_ERROR = 1e-2
"""Of the float16 graph: random weights round worse than trained ones (1.2e-3 was seen, where a model for use may have
1e-3), and what is timed is the same. A graph that is wrong is off by far more."""

Say = Callable[[str], None]


class ExporterMissing(EdgeError):
    """The exporter or PyTorch is not installed, so no vision graph can be made."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/edge-report/bench``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path.home() / ".cache"
    return base / "edge-report" / "bench"


def random_weights(spec: Mapping[str, Any], quantize: str = "none", seed: int = SEED) -> dict[str, NDArray[np.generic]]:
    """Decoder weights of a spec: normal with a spread of 0.02, norms of one; the same for the same seed.

    Parameters
    ----------
    spec : mapping
        Decoder spec of a manifest.
    quantize : {"none", "int8", "int4", "int4-head"}
        The matrices as a bundle of that precision has them; int4-head: made with ``--int4-head``.
    """
    import numpy as np

    from edge.weights import expected_shapes

    from .cost.formats import convert

    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, shape, _ in expected_shapes(spec):
        if "norm" in name and name.endswith(".weight"):
            arrays[name] = np.ones(shape, np.float32)
            continue
        array = rng.standard_normal(shape, np.float32)
        array *= np.float32(0.02)
        arrays |= convert({name: array}, PRECISIONS[quantize], prefill=True)
    return arrays


def decoder_weights(quantize: str, say: Say, *, refresh: bool = False) -> dict[str, NDArray[np.generic]]:
    """The reference decoder's random weights, mapped from the cache; made and kept there the first time.

    Raises
    ------
    OutputError
        The cache folder cannot be written to.
    """
    from safetensors.numpy import save_file

    from edge.weights import check_weights, map_safetensors, settle

    path = cache_folder() / f"decoder-reference-{PRECISIONS[quantize]}-v{VERSION}.safetensors"
    if path.is_file() and not refresh:
        with contextlib.suppress(BundleError):
            arrays = map_safetensors(path)
            check_weights(arrays, SPEC)
            return arrays
    say(f"making random decoder weights of the reference shape, once: {path}")
    with _working_folder() as work:
        made = random_weights(SPEC, quantize)
        save_file(made, work / path.name)
        settle(work / path.name)
        os.replace(work / path.name, path)
    arrays = map_safetensors(path)
    check_weights(arrays, SPEC)
    return arrays


def reference_bundle(quantize: str, say: Say, *, refresh: bool = False, gpu: bool = False) -> Path:
    """A bundle of the whole reference model with random weights; made and kept in the cache the first time.

    With `gpu` it holds the vision graph in float16, and has been checked on one picture.

    Raises
    ------
    ExporterMissing
    OutputError
        The cache folder cannot be written to, or has too little room.
    ProcessingError
        The exporter failed.
    """
    path = cache_folder() / f"bundle-reference-{PRECISIONS[quantize]}{'-gpu' if gpu else ''}-v{BUNDLE_VERSION}"
    if path.is_dir() and not refresh:
        try:
            Bundle.open(path)
            return path
        except BundleError as error:
            say(f"the bundle in the cache is not used: {error}")
    missing = [name for name in ("torch", "transformers", "onnx", "edge_export") if find_spec(name) is None]
    if missing:
        raise ExporterMissing(
            f"{', '.join(missing)} not installed, so there is no vision graph to time: "
            'pip install "edge-report[export]"'
        )
    with _working_folder() as work:
        if shutil.disk_usage(work).free < CHECKPOINT_AND_BUNDLE_BYTES:
            raise OutputError(f"{path.parent} needs {CHECKPOINT_AND_BUNDLE_BYTES >> 30} GiB free for a while")
        say(f"exporting a random checkpoint of the reference shape, once; this takes minutes: {path}")
        export = "import sys; from edge_export.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = ["--random", SHAPE, "--seed", str(SEED), str(work / "random.safetensors")]
        arguments += ["--out", str(work / "bundle"), "--quantize", quantize.removesuffix("-head")]
        arguments += ["--int4-head"] * quantize.endswith("-head")
        arguments += ["--name", f"{SHAPE}-random", "--synthetic"]
        if gpu:
            arguments += ["--gpu-graph", "--gpu-error", str(RANDOM_ERROR), "--pictures", "1"]
        elif quantize != "none":
            arguments.append("--openvino-graph")
        _child([sys.executable, "-P", "-c", export, *arguments], "the export")
        Bundle.open(work / "bundle")
        shutil.rmtree(path, ignore_errors=True)
        os.rename(work / "bundle", path)
    return path


def _child(call: list[str], what: str) -> None:
    """Run a step that needs PyTorch in a process of its own, whose memory is not ours."""
    done = subprocess.run(call, stdout=sys.stderr.fileno() if _has_fileno() else subprocess.DEVNULL)
    if done.returncode != 0:
        raise ProcessingError(f"{what} failed (exit code {done.returncode}); its own message is above")


def _has_fileno() -> bool:
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _working_folder() -> Iterator[Path]:
    """A temporary folder inside the cache, from where a finished file is renamed into place."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}); set XDG_CACHE_HOME") from None
    try:
        yield work
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror or type(error).__name__}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
