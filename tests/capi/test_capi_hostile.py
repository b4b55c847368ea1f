# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile bundles, through the C library: the cases that the Python package is tested with, with the same
words in the messages, and random damage."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from capi import CapiError, Engine, Library
from handmade import chest_picture, make_manifest, make_weights, seal
from safetensors.numpy import save_file

from edge.errors import BundleError, ProcessingError

RUNTIME = Path(__file__).parents[1] / "runtime"
CASES = [RUNTIME / "test_hostile_bundles.py", RUNTIME / "test_hostile_models.py"]


def opened(library: Library, path: Path | str) -> tuple[Engine | None, str]:
    """An engine, or the one line of a bundle error."""
    try:
        return library.engine(path), ""
    except CapiError as caught:
        error = caught
    assert error.status == 30, str(error)
    assert str(error).isprintable()
    return None, str(error)


class Shim:
    """What those cases use of the Python package, done by the library."""

    library: Library

    @classmethod
    def attempt(cls, path: Path | str) -> Engine:
        engine, error = opened(cls.library, path)
        if engine is None:
            raise BundleError(error)
        return engine

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        return Bundle(path)


class Bundle:
    """A bundle that is opened when something is asked of it: the library has no halfway."""

    def __init__(self, path: Path | str) -> None:
        self.path = path

    def weights(self) -> None:
        Shim.attempt(self.path)

    @staticmethod
    def open(path: Path | str) -> Bundle:
        return Bundle(path)


class VisionSession:
    def __init__(self, bundle: Bundle) -> None:
        self.engine = Shim.attempt(bundle.path)

    def run(self, pixels: Any, *, bias: bool) -> None:
        picture = pixels[0, 0].copy()
        picture[0, 0] += 1  # without contrast it is refused before the model sees it
        film = Shim.library.film_of_array(picture)
        with pytest.raises(CapiError) as caught:
            self.engine.report(film, bias_rows="all" if bias else "none")
        assert caught.value.status == 80
        raise ProcessingError(str(caught.value))


def refused(path: Path | str, *words: str) -> str:
    with pytest.raises(BundleError) as caught:
        Shim.attempt(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    for word in words:
        assert word in message
    return message


def parse_manifest(data: bytes) -> None:
    """Whether a manifest is taken; what is wrong with the files behind it does not count."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.json").write_bytes(data)
        message = refused(folder)
    if not message.endswith("is missing: copy the bundle again"):
        raise BundleError(message)


def check_self_contained(path: Path) -> None:
    """Of a graph alone: in a bundle around it."""
    folder = Path(shutil.copytree(Shim.pristine, path.parent / "around"))  # type: ignore[attr-defined]
    shutil.copy(path, folder / "vision.onnx")
    seal(folder, make_manifest(320))
    Shim.attempt(folder)


class TextDecoder:
    def __init__(self, path: Path, vocab: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            around = Path(shutil.copytree(Shim.pristine, Path(folder) / "around"))  # type: ignore[attr-defined]
            shutil.copy(path, around / "tokenizer.json")
            if vocab != 320:
                data = json.loads((around / "tokenizer.json").read_text())
                data["added_tokens"].append({"id": 320, "content": "<more>", "special": True})
                (around / "tokenizer.json").write_text(json.dumps(data))
            seal(around, make_manifest(320))
            try:
                Shim.attempt(around)
            except BundleError as error:
                raise BundleError(str(error).replace("holds 321 tokens, the decoder 320", "holds 320 tokens")) from None


def load_cases() -> dict[str, Any]:
    """What the files of those cases hold, by name, with the library in the package's place."""
    shims, found = {Bundle, VisionSession, TextDecoder, refused, parse_manifest, check_self_contained}, dict[str, Any]()
    for path in CASES:
        spec = importlib.util.spec_from_file_location(f"{path.stem}_in_c", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        for shim in shims:
            if hasattr(module, shim.__name__):
                setattr(module, shim.__name__, shim)
        module.edge = type("edge", (), {"load": Shim.attempt, "ProcessingError": ProcessingError})  # type: ignore
        found |= vars(module)
    assert all(found[shim.__name__] is shim for shim in shims)
    return found


# These ask the Python package for more than a refusal.
OTHER = {
    "test_good_bundle",
    "test_unlisted_files_are_ignored",
    "test_environment_names_the_bundle",
    "test_environment_is_named_in_the_error",
    "test_links_inside_the_bundle_are_fine",
    "test_name_with_nul",  # no C string holds one
    "test_weights_that_do_not_fit_the_spec",  # here in the kernel's words, below
}
_cases = load_cases()
globals().update({name: case for name, case in _cases.items() if name.startswith("test_") and name not in OTHER})


@pytest.fixture(autouse=True)
def _library(library: Library, pristine: Path) -> None:
    Shim.library = library
    Shim.pristine = pristine  # type: ignore[attr-defined]


def test_those_cases_are_here() -> None:
    assert set(_cases) >= OTHER
    assert sum(name.startswith("test_") for name in globals()) > 35


def test_good_bundle_opens(bundle: Path, library: Library) -> None:
    (bundle / "notes.txt").write_text("hello")
    (bundle / "vision.onnx").rename(bundle / "blob")
    (bundle / "vision.onnx").symlink_to("blob")
    with library.engine(bundle) as engine:
        assert engine.info["model"]["name"] == "handmade"


@pytest.mark.parametrize(("change", "words"), _cases["test_weights_that_do_not_fit_the_spec"].pytestmark[0].args[1])
def test_weights_in_the_kernels_words(bundle: Path, change: dict[str, Any], words: str) -> None:
    weights = {name: value for name, value in (make_weights(320) | change).items() if value is not None}
    save_file(weights, bundle / "decoder.safetensors")
    seal(bundle, make_manifest(320))
    refused(bundle, re.split(r"[' ]", words.strip("'"))[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prefix/images": 3}, "look at several films of a study are not in libedge_report; the Python package"),
        ({"generation/context": []}, "read a context before they write are not in libedge_report"),
        ({"generation/states": {}}, "prompt is made of states of findings are not in libedge_report"),
    ],
)
def test_what_only_the_python_package_has(bundle: Path, library: Library, change: dict[str, Any], words: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for path, value in change.items():
        section, key = path.split("/")
        manifest[section][key] = value
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert words in opened(library, bundle)[1]


def test_graph_that_yields_another_shape_than_it_says(bundle: Path, library: Library) -> None:
    """ONNX Runtime only warns where a shape is known at run time alone; what is behind relies on it."""
    model = onnx.load(bundle / "vision.onnx")
    helper, last = onnx.helper, next(node for node in model.graph.node if node.output[0] == "first_logits")
    last.output[0] = "flat_logits"
    for name, value in (("zero_index", np.array([0])), ("fewer", np.array([300], np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["bias_switch", "fewer"], ["fewer_now"]),
            helper.make_node("Cast", ["fewer_now"], ["end_index"], to=onnx.TensorProto.INT64),
            helper.make_node("Slice", ["flat_logits", "zero_index", "end_index"], ["first_logits"]),
        ]
    )
    onnx.save(model, bundle / "vision.onnx")
    seal(bundle, make_manifest(320))
    with library.engine(bundle) as engine, pytest.raises(CapiError, match="another shape than it says") as caught:
        engine.report(library.film_of_array(chest_picture()))
    assert caught.value.status == 80


ROUNDS = int(os.environ.get("EDGE_TEST_CAPI_FUZZ", "200"))


def damage(data: bytes, rng: random.Random, limit: int) -> bytes:
    """A few bytes changed, repeated, cut out or exchanged for what parsers stumble over, in the first `limit`."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, min(len(out), limit)))
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.choice((1, 2, 17))]
        elif kind == 2:
            out[at:at] = out[at : at + rng.choice((1, 8, 40))]
        elif kind == 3:
            out[at:at] = rng.choice((b"{", b"[", b'"', b"\\", b"\xff", b"0" * 30, b"-1", b"1e999", b"null", b"\\ud800"))
        elif out:
            out[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(out)


@pytest.mark.parametrize("name", ["manifest.json", "decoder.safetensors", "tokenizer.json", "vision.onnx"])
def test_random_damage(bundle: Path, library: Library, name: str) -> None:
    """Damage behind the hashes: an engine, or a bundle error of one line; $EDGE_TEST_CAPI_FUZZ rounds."""
    rng, whole, taken = random.Random(name), (bundle / name).read_bytes(), 0
    for _ in range(ROUNDS if name != "vision.onnx" else ROUNDS // 4):
        (bundle / name).write_bytes(damage(whole, rng, 3000 if name != "tokenizer.json" else 1 << 30))
        if name != "manifest.json":
            seal(bundle, make_manifest(320))
        engine, _error = opened(library, bundle)
        if engine is not None:
            engine.close()
            taken += 1
    assert taken < ROUNDS
