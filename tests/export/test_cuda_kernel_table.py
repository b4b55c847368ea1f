# SPDX-License-Identifier: Apache-2.0
"""The table of operators that run on a GPU holds only what every release of ONNX Runtime has that we take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from edge_export.graph_cuda import KERNELS, for_cuda, without_cuda_kernel
from onnx import TensorProto, helper

HERE = Path(__file__).parent
Table = dict[str, list[tuple[int, int | None]]]


def tables() -> dict[str, Table]:
    """Of each release, oldest first: operator to the first and last version of every kernel."""
    releases = json.loads((HERE / "cuda_kernels.json").read_text())["releases"]
    result: dict[str, Table] = {}
    have: Table = {}
    for release, entry in releases.items():
        have = {**have, **{name: [(low, high) for low, high in ranges] for name, ranges in entry["kernels"].items()}}
        result[release] = have
    return result


def serves(kernels: list[tuple[int, int | None]], version: int) -> bool:
    """A kernel without a last version serves its first one alone: what a later one changes it cannot know."""
    return any(version == low if high is None else low <= version <= high for low, high in kernels)


@pytest.mark.parametrize("release", tables())
def test_every_release_has_them(release: str) -> None:
    table = tables()[release]
    lacks = [
        f"{name} {version}" for name, versions in KERNELS.items() for version in versions
        if not serves(table[name], version)
    ]  # fmt: skip
    assert lacks == []


def test_what_some_release_lacks_is_not_in_it() -> None:
    """The facts tell releases apart, and so can refuse an entry."""
    late = {"AveragePool": 19, "Equal": 19, "Pad": 19, "ReduceMax": 20, "ReduceMin": 20, "Resize": 19}
    found = tables()
    for name, version in late.items():
        assert [serves(table[name], version) for table in found.values()].count(False) >= 3
        assert serves(found["1.31.1"][name], version)
        assert version not in KERNELS[name]


def test_the_releases_are_those_that_are_asked_for() -> None:
    project = (HERE.parents[1] / "pyproject.toml").read_text()
    asked = re.search(r'"onnxruntime-gpu\[cuda,cudnn\]>=([0-9.]+),<2"', project)
    assert asked is not None
    numbers = [tuple(map(int, release.split("."))) for release in tables()]
    assert numbers == sorted(numbers)
    assert min(numbers) <= tuple(map(int, asked[1].split("."))) <= max(numbers)


def test_versions_are_those_of_a_schema() -> None:
    """An entry that no operator has would never be looked up."""
    known: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            known.setdefault(schema.name, set()).add(schema.since_version)
    assert {name: set(versions) - known[name] for name, versions in KERNELS.items()} == {
        name: set() for name in KERNELS
    }


def test_pooling_of_late_opsets_is_told() -> None:
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])
    graph = helper.make_graph(
        [node], "g", [value("x", [1, 1, 4, 4])], [value("y", [1, 1, 3, 3])]
    )  # fmt: skip
    for opset, told in ((18, []), (20, ["AveragePool y: no CUDA kernel for version 19"])):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        assert without_cuda_kernel(for_cuda(model)) == told


def value(name: str, shape: list[int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
