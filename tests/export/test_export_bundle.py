# SPDX-License-Identifier: Apache-2.0
"""What is in a bundle, what the self-check refuses, and the command itself."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traces

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edge_export import pipeline  # noqa: E402
from edge_export.cli import main  # noqa: E402
from edge_export.errors import ExportError, OutputError, UsageError  # noqa: E402
from edge_export.onnx_graph import without_check_outputs  # noqa: E402
from edge_export.quantize import quantize_decoder, quantize_rows  # noqa: E402
from edge_export.random_checkpoint import make, smooth_pixels  # noqa: E402
from edge_export.verify import dice  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from tiny import tiny_bundle, tiny_model  # noqa: E402

from edge.bundle import Bundle  # noqa: E402

Exported = Callable[..., tuple[Any, Path]]


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(folder / "vision.onnx").graph.node]


def depthwise(folder: Path) -> int:
    """Convolutions with one input channel per output channel: one per ConvNeXt block that is run."""
    graph = onnx.load(folder / "vision.onnx").graph
    groups = [a.i for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    return sum(group > 1 for group in groups)


def test_files_and_manifest(exported: Exported) -> None:
    model, folder = exported(kind="gaussian")
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {"MODEL_CARD.md", "decoder.safetensors", "tokenizer.json", "vision.onnx"}
    assert {path.name for path in folder.iterdir()} == {*names, "manifest.json"}
    assert set(manifest["files"]) == names
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert manifest["prefix"] == {"length": 16, "grid": [4, 4], "skip_tokens": 5}
    assert manifest["bias"] == {"kind": "gaussian", "strength": 1.0, "rows": "all", "span": "prefix"}
    assert manifest["decoder"]["hidden"] == model.config.decoder_hidden
    assert Bundle.open(folder).manifest.precision == "fp32"


def test_graph(exported: Exported) -> None:
    _, folder = exported(kind="gaussian")
    graph = onnx.load(folder / "vision.onnx")
    onnx.checker.check_model(graph)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.graph.input, *graph.graph.output]
    }
    assert shapes == {
        "pixels": [1, 3, 64, 64],
        "bias_switch": [1],
        "prefix_keys": [3, 4, 16, 16],
        "prefix_values": [3, 4, 16, 16],
        "first_logits": [320],
        "key_bias": [3, 16],
        "mask": [8, 8],
    }
    assert {o.domain for o in graph.opset_import} == {""}
    assert not {"If", "Loop", "Scan", "Dropout", "RandomNormal"} & set(operators(folder))


def test_graph_without_the_prefill(exported: Exported) -> None:
    """It ends at the prefix embeddings and holds none of the decoder's weights."""
    _, whole = exported(kind="gaussian")
    _, folder = exported(kind="gaussian", prefill="kernel")
    graph = onnx.load(folder / "vision.onnx")
    onnx.checker.check_model(graph)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.graph.input, *graph.graph.output]
    }
    assert shapes == {"pixels": [1, 3, 64, 64], "prefix_embeddings": [16, 64], "key_bias": [3, 16], "mask": [8, 8]}
    decoder = sum(a.nbytes for name, a in load_file(folder / "decoder.safetensors").items() if "layers" in name)
    assert (whole / "vision.onnx").stat().st_size - (folder / "vision.onnx").stat().st_size > decoder
    assert "by the decoding kernel" in (folder / "MODEL_CARD.md").read_text()
    assert "prefill" not in json.loads((whole / "manifest.json").read_text())


def test_int8_with_the_kernels_prefill(exported: Exported) -> None:
    """The default where weights are quantized, and each of its products is measured."""
    _, folder = exported(kind="hidden", quantize="int8")
    manifest = Bundle.open(folder).manifest
    assert manifest.kernel_prefill
    parts = ("qkv", "attn_out", "mlp_in", "mlp_out")
    known = [f"layers.{i}.{part}" for i in range(3) for part in parts][: 3 * 4 - 3]
    assert set(manifest.prefill_int8) <= set(known)
    count = len(manifest.prefill_int8)
    assert count
    assert f"prefill: {count} with int8 activations" in (folder / "MODEL_CARD.md").read_text()
    assert f"{len(known) - count} with about 14 bits" in (folder / "MODEL_CARD.md").read_text()


def test_narrow_products_are_chosen_by_their_error() -> None:
    from edge_export.families.lana.prefill_plan import MOST_NMSE, PrefillPlan, narrow_error

    rng = np.random.default_rng(0)
    weights, rows = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, 64), (50, 64)))
    error = narrow_error(rows, weights, weights)
    outlier = rows.copy()
    outlier[:, 3] *= 100  # one channel takes all levels for itself
    assert 1e-6 < error < MOST_NMSE
    some = weights.copy()
    some[:, 3] = 0
    assert narrow_error(outlier, some, some) > MOST_NMSE
    assert narrow_error(np.full_like(rows, np.inf), weights, weights) == np.inf
    plan = PrefillPlan({"a": error, "b": 1.0})
    assert plan.narrow == ["a"]
    assert "1 with int8" in plan.describe()


def test_last_block_computes_one_row(exported: Exported) -> None:
    """Of the decoder's matrices only the last block's see a single row."""
    _, folder = exported(kind="gaussian")
    graph = onnx.shape_inference.infer_shapes(onnx.load(folder / "vision.onnx")).graph
    shape = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    weights = {t.name: list(t.dims) for t in graph.initializer}
    rows = [
        shape[node.input[0]][0]
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and weights.get(node.input[1]) in ([64, 256], [256, 64])
    ]
    assert sorted(rows) == [1, 1, 16, 16, 16, 16]


def test_equal_trunks_are_stored_and_run_once(exported: Exported) -> None:
    _, once = exported(kind="gaussian")
    _, twice = exported(kind="gaussian_legacy", skip_tokens=1, tied_head=False, shared_trunk=False, strength=2.0)
    assert (depthwise(once), depthwise(twice)) == (5, 10)
    assert "stored and run once" in (once / "MODEL_CARD.md").read_text()


def test_mask_branch_left_out(exported: Exported) -> None:
    _, without = exported(kind="gaussian", rows="none", with_mask=False)
    assert depthwise(without) == 0
    graph = onnx.load(without / "vision.onnx").graph
    assert [v.name for v in graph.input] == ["pixels"]
    assert {v.name for v in graph.output} == {"prefix_keys", "prefix_values", "first_logits"}
    assert Bundle.open(without).manifest.bias.kind == "none"


def test_decoder_weights(exported: Exported) -> None:
    model, folder = exported(kind="gaussian")
    arrays = load_file(folder / "decoder.safetensors")
    block = model.decoder.transformer.h[1]
    assert np.array_equal(arrays["layers.1.qkv.weight"], block.attn.c_attn.weight.detach().numpy().T)
    assert np.array_equal(arrays["layers.1.mlp_out.bias"], block.mlp.c_proj.bias.detach().numpy())
    assert "head.weight" not in arrays
    _, untied = exported(kind="gaussian_legacy", skip_tokens=1, tied_head=False, shared_trunk=False, strength=2.0)
    assert "head.weight" in load_file(untied / "decoder.safetensors")


def test_model_card(exported: Exported) -> None:
    _, folder = exported(kind="gaussian")
    card = (folder / "MODEL_CARD.md").read_text()
    for words in ("Intended use", "patch features", "mask", "key bias", "prefix keys", "first logits", "greedy"):
        assert words in card
    assert re.search(r"\| first logits \| NMSE \| \d\.\d\de-\d\d \|", card)
    assert "FAILED" not in card


def test_int8(exported: Exported) -> None:
    _, exact = exported(kind="gaussian")
    _, small = exported(kind="gaussian", quantize="int8", prefill="graph")
    arrays = load_file(small / "decoder.safetensors")
    assert arrays["layers.0.qkv.weight"].dtype == np.int8
    assert arrays["layers.0.qkv.weight.scale"].shape == (192,)
    assert arrays["positions.weight"].dtype == np.float32
    sizes = [(f / "vision.onnx").stat().st_size for f in (exact, small)]
    assert sizes[1] < 0.45 * sizes[0]  # at this size names and small vectors weigh
    card = (small / "MODEL_CARD.md").read_text()
    for words in ("what this quantization costs", "text logits, same first choice", "Dice", "IoU"):
        assert words in card
    assert Bundle.open(small).manifest.precision == "int8"
    # Of the tiny model only the head is large enough for a product of integers: once with what is left over.
    assert operators(small).count("MatMulInteger") == 2
    assert "1 with int16 activations" in card


def test_quantized_rows_round_to_the_nearest_step() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 40)).astype(np.float32)
    weight[3] = 0
    for axis in (0, 1):
        values, scale = quantize_rows(weight, axis)
        wide = values * (scale[:, None] if axis == 0 else scale[None])
        step = scale[:, None] if axis == 0 else scale[None]
        assert (np.abs(wide - weight) <= step * 0.5001).all()
        assert values.min() >= -127
    arrays = quantize_decoder({"a.weight": weight, "a.bias": weight[0], "positions.weight": weight})
    assert [arrays[name].dtype for name in ("a.weight", "a.bias", "positions.weight")] == [
        np.int8,
        np.float32,
        np.float32,
    ]


def sabotage_graph(model: Any) -> Any:
    """One matrix in the middle of the graph, off by 2 %."""
    tensors = [t for t in model.graph.initializer if "mlp.c_proj.weight" in t.name]
    array = numpy_helper.to_array(tensors[0]) * np.float32(1.02)
    tensors[0].CopyFrom(numpy_helper.from_array(array, tensors[0].name))
    return model


def refuse(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    spoil: Callable[[Any], Any],
    **options: Any,
) -> str:
    original = traces.to_onnx if name == "to_onnx" else getattr(pipeline, name)
    monkeypatch.setattr(pipeline, name, lambda value: spoil(original(value)))
    with pytest.raises(ExportError) as caught:
        tiny_bundle(tmp_path / "bundle", **options)
    assert caught.value.exit_code == 84
    assert not (tmp_path / "bundle").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    return str(caught.value)


def test_a_sabotaged_graph_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = refuse(monkeypatch, tmp_path, "to_onnx", sabotage_graph, segmenter=False, rows="none")
    assert "nothing was written" in text
    assert re.search(r"\| prefix keys \|.*FAILED", text)
    assert re.search(r"\| patch features \|.*ok", text)


def test_sabotaged_decoder_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spoil(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays["layers.2.mlp_in.weight"] = arrays["layers.2.mlp_in.weight"] * np.float32(1.02)
        return arrays

    text = refuse(monkeypatch, tmp_path, "decoder_arrays", spoil, segmenter=False, rows="none")
    assert re.search(r"\| text logits \|.*FAILED", text)
    assert re.search(r"\| first logits \|.*ok", text)


def test_a_graph_that_ignores_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def spoil(model: Any) -> Any:
        one = numpy_helper.from_array(np.ones(1, np.float32), "always")
        model.graph.initializer.append(one)
        for node in model.graph.node:
            node.input[:] = ["always" if name == "bias_switch" else name for name in node.input]
        return model

    text = refuse(monkeypatch, tmp_path, "to_onnx", spoil)
    assert re.search(r"\| prefix values, bias off \|.*FAILED", text)


def test_targets(tmp_path: Path) -> None:
    model = tiny_model(segmenter=False)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="other things"):
        tiny_bundle(taken, model=model, rows="none", force=True)
    assert (taken / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        tiny_bundle(tmp_path / "file", model=model, rows="none")
    tiny_bundle(tmp_path / "bundle", model=model, rows="none", notice="first")
    with pytest.raises(OutputError, match="--force"):
        tiny_bundle(tmp_path / "bundle", model=model, rows="none")
    tiny_bundle(tmp_path / "bundle", model=model, rows="none", notice="second", force=True)
    assert Bundle.open(tmp_path / "bundle").manifest.notice == "second"
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "int5"}, "none, int8"),
        ({"with_mask": False, "rows": "all"}, "only with the bias rows none"),
        ({"max_new_tokens": 500}, "do not fit the 192 positions"),
        ({"notice": "two\nlines"}, "edge-report would refuse this bundle: .*notice"),
        ({"repetition_penalty": -1.0}, "repetition_penalty' must be"),
    ],
)
def test_options_that_contradict(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny_bundle(tmp_path / "bundle", **options)


def test_check_outputs_are_taken_off(exported: Exported) -> None:
    _, folder = exported(kind="gaussian")
    model = onnx.load(folder / "vision.onnx")
    assert without_check_outputs(model).SerializeToString() == model.SerializeToString()


def test_dice() -> None:
    empty, full, half = np.zeros((4, 4)), np.ones((4, 4)), np.eye(4)
    assert dice(empty, empty) == dice(full, full) == 1.0
    assert dice(empty, full) == 0.0
    assert dice(half, full) == pytest.approx(0.4)


def test_same_model_same_graph(tmp_path: Path) -> None:
    """Two exports of one model are the same bytes, so a bundle's hash tells a model."""
    model = tiny_model(segmenter=False)
    one = tiny_bundle(tmp_path / "one", model=model, rows="none")
    two = tiny_bundle(tmp_path / "two", model=model, rows="none", traced_anew=True)
    for name in ("vision.onnx", "decoder.safetensors", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pipeline,
        "check_images",
        lambda image: [smooth_pixels(image["height"], np.random.default_rng(0))],
    )
    checkpoint = tmp_path / "random/net.safetensors"
    out = tmp_path / "bundle"
    command = ["--random", "tiny", str(checkpoint), "--out", str(out), "--bias-kind", "hidden"]
    assert main([*command, "--bias-rows", "prefill", "--name", "net-1", "--quantize", "int8"]) == 0
    captured = capsys.readouterr()
    assert "tracing the vision graph" in captured.err
    assert captured.out.startswith(f"{out}: ")
    manifest = Bundle.open(out).manifest
    assert (manifest.name, manifest.bias.kind, manifest.bias.rows) == ("net-1", "hidden", "prefill")
    assert manifest.synthetic
    assert manifest.notice
    assert main([*command, "-q"]) == 40
    assert "--force" in capsys.readouterr().err
    assert main([str(checkpoint), "--out", str(tmp_path / "b2"), "--tokenizer", str(tmp_path), "-q"]) == 20
    assert re.fullmatch(r"edge-export: net\.safetensors: cannot read: no tokenizer in .*\n", capsys.readouterr().err)
    assert not (tmp_path / "b2").exists()
    # What would change nothing is refused, not passed over.
    for words in (["--images", "2"], ["--context", "indication=<I>"], ["--retrieved", "x"], ["--section", "a=b"]):
        assert main([str(checkpoint), "--out", str(tmp_path / "b2"), "-q", *words]) == 1
        assert f"{words[0]}: not for this family" in capsys.readouterr().err
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("The heart is normal.")
    table = [str(out), "--out", str(tmp_path / "b2"), "-q", "--draft-corpus", str(corpus)]
    assert main([*table, "--quantize", "int4", "--kv", "int8"]) == 1
    assert "--kv, --quantize: not for a bundle" in capsys.readouterr().err
    assert not (tmp_path / "b2").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 1, "CHECKPOINT"),
        (["x.pth"], 1, "--out is missing"),
        (["x.pth", "--out", "{tmp}/b"], 20, "does not exist"),
        (["{tmp}/text.pth", "--out", "{tmp}/b"], 22, "text.pth: corrupt or truncated"),
        (["{tmp}", "--out", "{tmp}/b"], 20, "no config.json"),
        (["x.pth", "--out", "{tmp}/b", "--quantize", "int3"], 1, "invalid choice"),
        (["x.pth", "--out", "{tmp}/b", "--no-mask"], 1, "--bias-rows none"),
        (["x.pth", "--out", "{tmp}/b", "--images", "0"], 1, "from 1 to 16"),
        (["x.pth", "--out", "{tmp}/text.pth"], 40, "not a folder"),
        (["x" * 300, "--out", "{tmp}/b"], 20, "cannot read"),
        (["x\x1b[31m.pth", "--out", "{tmp}/b"], 20, r"x\x1b[31m.pth does not exist"),
        (["x.pth", "--out", "{tmp}/" + "b" * 300], 40, "cannot write"),
    ],
)
def test_command_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "text.pth").write_text("hello")
    assert main([a.replace("{tmp}", str(tmp_path)) for a in arguments]) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "b").exists()


def test_weights_that_overflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite ones, whose products are not."""
    pictures = [smooth_pixels(64, np.random.default_rng(0))]
    monkeypatch.setattr(pipeline, "check_images", lambda image: pictures)  # one is enough
    checkpoint = make("tiny", 0, "flat", tmp_path / "net.pth")
    torch.save({name: 1e6 * value for name, value in torch.load(checkpoint).items()}, checkpoint)
    assert main([str(checkpoint), "--out", str(tmp_path / "b"), "-q"]) == 84
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "edge-export: net.pth: export: PyTorch's own numbers overflow with these weights; nothing was written"
    ]
    assert not (tmp_path / "b").exists()


def test_command_refuses_with_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pipeline,
        "check_images",
        lambda image: [smooth_pixels(image["height"], np.random.default_rng(0))],
    )
    monkeypatch.setattr(pipeline, "to_onnx", lambda graph: sabotage_graph(traces.to_onnx(graph)))
    checkpoint = make("tiny", 0, "flat", tmp_path / "net.pth")
    assert main([str(checkpoint), "--out", str(tmp_path / "b"), "-q"]) == 84
    assert "| prefix keys |" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_help_is_light() -> None:
    """Neither torch nor onnx is imported before it is needed."""
    code = (
        "import sys; from edge_export.cli import main; code = main(['--help']); "
        "assert not {'torch', 'onnx', 'onnxruntime', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--bias-rows" in done.stdout
