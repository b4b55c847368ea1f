# SPDX-License-Identifier: Apache-2.0
"""What others call says what it takes and gives: every public name has a docstring, arrays in them have a shape."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edge
import edge.bundle
import edge.cuda
import edge.decoder
import edge.film.grey
import edge.generation
import edge.manifest
import edge.preprocess
import edge.vision.backend
import edge.weights

STUB = Path(edge.__file__).with_name("_kernel.pyi")
MODULES = (
    edge.cuda,
    edge.decoder,
    edge.film.grey,
    edge.generation,
    edge.preprocess,
    edge.vision.backend,
    edge.weights,
)


def public() -> Iterator[tuple[str, Any]]:
    """Names of the package, and of the modules beneath it that take arrays."""
    yield from ((name, getattr(edge, name)) for name in edge.__all__ if name != "__version__")
    for module in MODULES:
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and callable(value):
                yield f"{module.__name__}.{name}", value


def parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A name, and the public methods and properties of a class that are its own."""
    yield name, value
    if inspect.isclass(value):
        for method, found in vars(value).items():
            function = getattr(found, "fget", None) or getattr(found, "__func__", found)
            if not method.startswith("_") and inspect.isroutine(function):
                yield f"{name}.{method}", function


NAMED = sorted({name: value for one in public() for name, value in parts(*one)}.items())


@pytest.mark.parametrize(("name", "value"), NAMED, ids=[name for name, _ in NAMED])
def test_a_docstring(name: str, value: Any) -> None:
    text = (value.__doc__ or "").strip()
    if re.fullmatch(rf"{name.rsplit('.', 1)[-1]}\(.*\)( -> .*)?", text):
        text = ""  # what dataclasses and the binding write where there is none: the signature
    assert text, f"{name} has none"
    if not inspect.isfunction(value):
        return
    if any("NDArray" in str(kind) for kind in inspect.get_annotations(value).values()):
        assert re.search(r"\[|shape|As :meth:", text), f"{name}: of which shape are its arrays?"


def test_the_kernels_stub() -> None:
    missing = []
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not ast.get_docstring(node):
            missing.append(node.name)
        if isinstance(node, ast.ClassDef) and "Decoder" in node.name:
            methods = [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.decorator_list]
            missing += [f"{node.name}.{one.name}" for one in methods[1:] if not ast.get_docstring(one)]
    assert missing == []


def test_the_documentation_names_every_key_of_a_manifest() -> None:
    """As ``edge/manifest.py`` takes them."""
    source = inspect.getsource(edge.manifest)
    take = (
        r"(?:section|top|one|entry|intensity)\.\w+\(\s*\"(\w+)\"|_reference\(\w+, \"(\w+)\"|optional_graph\(\"(\w+)\"\)"
    )
    keys = {key for found in re.findall(take, source) for key in found if key}
    keys |= set(re.findall(r"^        \"(\w+)\": (?:lambda key|section\.\w+,)", source, re.MULTILINE))
    assert keys > {"format_version", "vision_static", "skip_tokens", "counted_begin", "penalise_prompt", "type_after"}
    page = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    assert {key for key in keys if not re.search(rf"`{key}`|`\[?\"{key}\"", page)} == set()
