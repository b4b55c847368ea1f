# SPDX-License-Identifier: Apache-2.0
"""``manifest.json`` of a bundle: parsed strictly, because a bundle may come from anywhere.

Every value is checked for type and range; keys that this version does not know are refused and named, since
an ignored key could change what the model computes. Nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from edge.errors import BundleError
from edge.strict import Section, load_json, short

FORMAT_VERSION = 1
MAX_FILE_BYTES = 1 << 40
MAX_CACHE_BYTES = 8 << 30
"""Refuse a decoder whose K/V cache in float32 would be larger than this."""

BiasKind = Literal["gaussian", "hidden", "layerwise", "gaussian_legacy", "none"]
BiasRows = Literal["all", "prefill", "none"]
DECODER_PARTS = ("embed_norm", "head_transform", "head_bias")
"""Parts that a decoder may have beside those of every one."""
BIAS_ROWS: tuple[BiasRows, ...] = ("all", "prefill", "none")

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PrefixSpec:
    """The image's keys: `length` of them, of which the last ``grid[0] * grid[1]`` are patches, row-major.

    They are a prefix of the text, or those of the cross-attention where the decoder has one (``cross_keys``).
    """

    length: int
    grid: tuple[int, int]
    skip_tokens: int
    images: int = 1
    """Films of one study that the model looks at together, at most; the keys of each follow those before."""

    @property
    def patches(self) -> int:
        """Patch keys: the last ones; register tokens that stay in the prefix come before them."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class BiasSpec:
    """How the anatomical mask becomes an attention bias, and which rows get it.

    With the span ``sequence`` the bias covers image and text, `sequence_length` keys in all; else the image.
    """

    kind: BiasKind
    strength: float
    rows: BiasRows
    span: Literal["prefix", "sequence"]
    sequence_length: int | None


@dataclass(frozen=True)
class ReportSection:
    """A section of the report: the token that begins it, and what it is."""

    token_id: int
    name: str


@dataclass(frozen=True)
class ContextPart:
    """A text that the model reads before it writes, as tokens in front of the begin ids.

    Attributes
    ----------
    name : str
        What it is: indication, prior_findings, ...
    before : tuple of int
        Ids that announce it.
    absent : tuple of int
        Ids in its place, the announcing ones included, where there is no such text.
    max_tokens : int
        A longer text is cut.
    """

    name: str
    before: tuple[int, ...]
    absent: tuple[int, ...]
    max_tokens: int

    @property
    def rows(self) -> int:
        """Most rows that it takes."""
        return max(len(self.before) + self.max_tokens, len(self.absent))


@dataclass(frozen=True)
class StatePrompt:
    """Findings that the vision graph classifies (``prompt_logits``): the state of each is a token behind the begin
    ids."""

    findings: tuple[str, ...]
    names: tuple[str, ...]
    """Of the states."""
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class GenerationSpec:
    """Generation defaults of the model."""

    max_new_tokens: int
    repetition_penalty: float
    stop_ids: tuple[int, ...]
    suppressed_ids: tuple[int, ...]
    begin_ids: tuple[int, ...]
    cut_at_sentence: bool
    evidence_layers: tuple[int, ...]
    rules: dict[str, Any] = field(default_factory=dict)
    """Beams and rules on a text, where the model has any: options of the decoder by name."""
    sections: tuple[ReportSection, ...] = ()
    context: tuple[ContextPart, ...] = ()
    states: StatePrompt | None = None

    @property
    def prompt_rows(self) -> int:
        """Most rows before a text: context, begin ids and states."""
        states = len(self.states.findings) if self.states else 0
        return sum(part.rows for part in self.context) + len(self.begin_ids) + states


@dataclass(frozen=True)
class FileEntry:
    """One listed file: its SHA-256 (hex) and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A validated manifest. `image` and `decoder` stay plain dictionaries: they are passed on as they are."""

    name: str
    family: str
    precision: Literal["fp32", "int8", "int4"]
    producer: str
    intended_use: str
    notice: str | None
    synthetic: bool
    image: dict[str, Any]
    prefix: PrefixSpec
    bias: BiasSpec
    decoder: dict[str, Any]
    generation: GenerationSpec
    vision_file: str
    vision_fp16_file: str | None
    vision_static_file: str | None
    vision_tensorrt_file: str | None
    weights_file: str
    tokenizer_file: str
    draft_file: str | None
    coding_file: str | None
    kv_dtype: Literal["fp32", "fp16", "int8"] | None
    labels: tuple[str, ...]
    files: dict[str, FileEntry]
    prefill: Literal["graph", "kernel"] = "graph"
    prefill_int8: tuple[str, ...] = ()

    @property
    def has_mask(self) -> bool:
        """Whether the vision graph yields a mask and a key bias."""
        return self.bias.kind != "none"

    @property
    def kernel_prefill(self) -> bool:
        """Whether the vision graph ends at the prefix embeddings, and the decoder does the rest."""
        return self.prefill == "kernel"

    @property
    def text_room(self) -> int:
        """Rows that fit behind the image: prompt and text."""
        positions = int(self.decoder["max_positions"] - self.decoder["position_offset"])
        if self.has_cross:
            return positions
        return min(positions, self.bias.sequence_length or positions) - self.prefix.length

    @property
    def has_cross(self) -> bool:
        """Whether the decoder reads the image by cross-attention, not as a prefix of the text."""
        return int(self.decoder.get("cross_keys", 0)) > 0


def parse_manifest(data: bytes) -> Manifest:
    """Parse and validate the bytes of ``manifest.json``.

    Raises
    ------
    BundleError
        Naming the first value that is missing, unknown, of a wrong type or out of range.
    """
    top = Section(load_json(data), "manifest")
    version = top.integer("format_version", 0, 1 << 31)
    if version != FORMAT_VERSION:
        todo = (
            "update edge-report (pip install -U edge-report)"
            if version > FORMAT_VERSION
            else "export the model again with this version's edge-export"
        )
        raise BundleError(f"the bundle has format version {version}, this edge-report reads {FORMAT_VERSION}: {todo}")
    files = _files(top.section("files"))
    image = _image(top.section("image"))
    decoder = _decoder(top.section("decoder"))
    prefix = _prefix(top.section("prefix"))
    bias = _bias(top.section("bias"))
    generation = _generation(top.section("generation"), decoder)
    graphs = top.section("graphs")

    def optional_graph(key: str) -> str | None:
        return _reference(graphs, key, files) if key in graphs.value else None

    manifest = Manifest(
        name=top.text("name", 128, empty=False),
        family=top.text("family", 64, empty=False),
        precision=cast(Any, top.choice("precision", ("fp32", "int8", "int4"))),
        producer=top.text("producer", 256),
        intended_use=top.text("intended_use", 4096),
        notice=top.optional_text("notice", 1024),
        synthetic=top.boolean("synthetic"),
        image=image,
        prefix=prefix,
        bias=bias,
        decoder=decoder,
        generation=generation,
        vision_file=_reference(graphs, "vision", files),
        vision_fp16_file=optional_graph("vision_fp16"),
        vision_static_file=optional_graph("vision_static"),
        vision_tensorrt_file=optional_graph("vision_tensorrt"),
        weights_file=_reference(top, "weights", files),
        tokenizer_file=_reference(top, "tokenizer", files),
        draft_file=_reference(top, "draft", files) if "draft" in top.value else None,
        coding_file=_reference(top, "coding", files) if "coding" in top.value else None,
        kv_dtype=cast(Any, top.choice("kv_dtype", ("fp32", "fp16", "int8"))) if "kv_dtype" in top.value else None,
        labels=top.strings("labels", 4096, 128),
        files=files,
        prefill=cast(Any, top.choice("prefill", ("graph", "kernel"))) if "prefill" in top.value else "graph",
        prefill_int8=top.strings("prefill_int8", 4096, 64) if "prefill_int8" in top.value else (),
    )
    graphs.done()
    top.done()
    _check_together(manifest)
    return manifest


def _files(section: Section) -> dict[str, FileEntry]:
    if not 1 <= len(section.value) <= 64:
        raise BundleError("files must list 1 to 64 files")
    files: dict[str, FileEntry] = {}
    folded: set[str] = set()
    for name in list(section.value):
        if not _FILE_NAME.fullmatch(name) or ".." in name or name.casefold() == "manifest.json":
            raise BundleError(f"files: {short(name)} is not a plain file name")
        if name.casefold() in folded:
            raise BundleError(f"files: {short(name)} is listed twice in different case")
        folded.add(name.casefold())
        entry = section.section(name)
        digest = entry.take("sha256", "64 hexadecimal digits")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            entry.fail("sha256", "64 lower-case hexadecimal digits")
        files[name] = FileEntry(digest, entry.integer("bytes", 0, MAX_FILE_BYTES))
        entry.done()
    return files


def _reference(section: Section, key: str, files: Mapping[str, FileEntry]) -> str:
    name = section.take(key, "the name of a listed file")
    if not isinstance(name, str) or name not in files:
        section.fail(key, "the name of a file listed in files")
    return name


def _image(section: Section) -> dict[str, Any]:
    intensity = section.section("intensity")
    mode = intensity.choice("mode", ("window", "minmax", "percentile"))
    levels: dict[str, Any] = {"mode": mode}
    if mode == "percentile" or "low" in intensity.value or "high" in intensity.value:
        levels["low"] = intensity.number("low", 0.0, 100.0)
        levels["high"] = intensity.number("high", 0.0, 100.0)
        if levels["low"] >= levels["high"]:
            raise BundleError("image.intensity: low must be below high")
    levels["equalize"] = intensity.boolean("equalize")
    intensity.done()
    image: dict[str, Any] = {
        "height": section.integer("height", 16, 4096),
        "width": section.integer("width", 16, 4096),
        "resize": section.choice("resize", ("bicubic", "bilinear", "lanczos")),
        "mean": section.numbers("mean", 3, -10.0, 10.0),
        "std": section.numbers("std", 3, 1e-6, 100.0),
        "intensity": levels,
    }
    if "crop_from" in section.value:
        image["crop_from"] = whole = section.integers("crop_from", 2, 16, 4096)
        if not whole:
            section.fail("crop_from", "a shorter edge, or rows and columns")
        if whole[0] < section.value["height"] or whole[-1] < section.value["width"]:
            raise BundleError("image: crop_from must not be smaller than height and width")
    section.done()
    return image


def _prefix(section: Section) -> PrefixSpec:
    length = section.integer("length", 1, 1 << 16)
    grid = section.integers("grid", 2, 1, 256, exactly=2)
    skip = section.integer("skip_tokens", 0, 1024)
    images = section.integer("images", 1, 16) if "images" in section.value else 1
    section.done()
    if not grid[0] * grid[1] <= length <= grid[0] * grid[1] + 1024:
        raise BundleError(f"prefix: length {length} does not fit a grid of {grid[0]}x{grid[1]} patches")
    return PrefixSpec(length, (grid[0], grid[1]), skip, images)


def _bias(section: Section) -> BiasSpec:
    kind = section.choice("kind", ("gaussian", "hidden", "layerwise", "gaussian_legacy", "none"))
    span = section.choice("span", ("prefix", "sequence"))
    spec = BiasSpec(
        kind=cast(BiasKind, kind),
        strength=section.number("strength", -1e6, 1e6),
        rows=cast(BiasRows, section.choice("rows", BIAS_ROWS)),
        span=cast(Any, span),
        sequence_length=section.integer("sequence_length", 1, 1 << 20) if span == "sequence" else None,
    )
    section.done()
    if kind == "none" and spec.rows != "none":
        raise BundleError("bias: rows must be none where there is no bias (kind none)")
    if spec.span == "sequence" and kind != "layerwise":
        raise BundleError("bias: the span sequence belongs to the kind layerwise")
    return spec


def _decoder(section: Section) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "layers": section.integer("layers", 1, 256),
        "hidden": section.integer("hidden", 1, 1 << 15),
        "heads": section.integer("heads", 1, 512),
        "kv_heads": section.integer("kv_heads", 1, 512),
        "head_dim": section.integer("head_dim", 1, 1024),
        "mlp": section.integer("mlp", 1, 1 << 17),
        "vocab": section.integer("vocab", 1, 1 << 21),
        "max_positions": section.integer("max_positions", 1, 1 << 20),
        "norm": section.choice("norm", ("layernorm",)),
        "norm_position": section.choice("norm_position", ("pre", "post")),
        "norm_eps": section.number("norm_eps", 1e-12, 1e-1),
        "activation": section.choice("activation", ("gelu_tanh", "gelu_erf")),
        "positions": section.choice("positions", ("learned",)),
        "position_offset": section.integer("position_offset", 0, 1024),
        "tied_head": section.boolean("tied_head"),
    }
    # Absent: as in a plain decoder behind an image prefix.
    if "cross_keys" in section.value:
        spec["cross_keys"] = section.integer("cross_keys", 1, 1 << 16)
    if "embed_scale" in section.value:
        spec["embed_scale"] = section.number("embed_scale", 1e-3, 1e3)
    spec |= {key: section.boolean(key) for key in DECODER_PARTS if key in section.value}
    if "token_types" in section.value:
        spec["token_types"] = section.integer("token_types", 1, 64)
        spec["type_after"] = list(section.integers("type_after", 32, 0, (1 << 21) - 1))
        pairs = [spec["type_after"][i : i + 2] for i in range(0, len(spec["type_after"]), 2)]
        if not all(len(pair) == 2 and pair[0] < spec["vocab"] and pair[1] < spec["token_types"] for pair in pairs):
            section.fail("type_after", "pairs of a token id and one of the token_types")
    section.done()
    if spec["heads"] * spec["head_dim"] != spec["hidden"]:
        raise BundleError("decoder: heads times head_dim must be hidden")
    if spec["kv_heads"] != spec["heads"]:
        raise BundleError("decoder: kv_heads must equal heads")
    keys = spec["max_positions"] + spec.get("cross_keys", 0)
    if spec["layers"] * keys * spec["hidden"] * 8 > MAX_CACHE_BYTES:
        raise BundleError("decoder: layers, max_positions and hidden ask for an implausibly large cache")
    return spec


def _generation(section: Section, decoder: Mapping[str, Any]) -> GenerationSpec:
    last = decoder["vocab"] - 1
    spec = GenerationSpec(
        max_new_tokens=section.integer("max_new_tokens", 1, decoder["max_positions"]),
        repetition_penalty=section.number("repetition_penalty", 0.01, 100.0),
        stop_ids=section.integers("stop_ids", 64, 0, last),
        suppressed_ids=section.integers("suppressed_ids", 4096, 0, last),
        begin_ids=section.integers("begin_ids", 64, 0, last),
        cut_at_sentence=section.boolean("cut_at_sentence"),
        evidence_layers=section.integers("evidence_layers", 256, 0, decoder["layers"] - 1),
        rules=_rules(section, decoder),
        sections=_sections(section, last),
        context=_context(section, decoder),
        states=_states(section, last),
    )
    section.done()
    if len(set(spec.suppressed_ids)) > last:
        raise BundleError("generation: suppressed_ids leave no token to choose")
    return spec


def _is_plain(decoder: Mapping[str, Any]) -> bool:
    """Whether it is a plain pre-norm decoder behind an image prefix."""
    more = ("cross_keys", "embed_norm", "head_transform", "head_bias", "token_types")
    plain = decoder["norm_position"] == "pre" and decoder.get("embed_scale", 1.0) == 1.0
    return plain and not any(decoder.get(key) for key in more)


def _rules(section: Section, decoder: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a model need not have; absent ones stay absent."""
    last, rows = decoder["vocab"] - 1, decoder["max_positions"]
    takes: dict[str, Callable[[str], Any]] = {
        "beams": lambda key: section.integer(key, 1, 16),
        "length_penalty": lambda key: section.number(key, -10.0, 10.0),
        "early_stopping": lambda key: section.choice(key, ("no", "yes", "never")),
        "no_repeat_ngram": lambda key: section.integer(key, 0, 64),
        "min_new_tokens": lambda key: section.integer(key, 0, rows),
        "penalise_prompt": section.boolean,
        "forced_end_id": lambda key: section.integer(key, 0, last),
        "counted_begin": lambda key: section.integer(key, 0, 64),
    }
    return {key: take(key) for key, take in takes.items() if key in section.value}


def _sections(section: Section, last: int) -> tuple[ReportSection, ...]:
    if "sections" not in section.value:
        return ()
    found = []
    for entry in section.array("sections", 16):
        one = Section(entry, "generation.sections")
        found.append(ReportSection(one.integer("token_id", 0, last), one.text("name", 64, empty=False)))
        one.done()
    return tuple(found)


def _context(section: Section, decoder: Mapping[str, Any]) -> tuple[ContextPart, ...]:
    if "context" not in section.value:
        return ()
    last = decoder["vocab"] - 1
    found: list[ContextPart] = []
    for entry in section.array("context", 8):
        one = Section(entry, "generation.context")
        part = ContextPart(
            one.text("name", 64, empty=False),
            one.integers("before", 64, 0, last),
            one.integers("absent", 64, 0, last),
            one.integer("max_tokens", 1, decoder["max_positions"]),
        )
        one.done()
        if part.name in {other.name for other in found}:
            raise BundleError(f"generation.context: {short(part.name)} is there twice")
        found.append(part)
    return tuple(found)


def _states(section: Section, last: int) -> StatePrompt | None:
    if "states" not in section.value:
        return None
    one = Section(section.take("states", "an object"), "generation.states")
    states = StatePrompt(
        one.strings("findings", 256, 64), one.strings("names", 64, 64), one.integers("token_ids", 64, 0, last)
    )
    one.done()
    if not states.findings or len(states.names) < 2 or len(states.names) != len(states.token_ids):
        raise BundleError("generation.states: findings, and two or more states with a token each, are needed")
    return states


def _check_together(manifest: Manifest) -> None:
    decoder, prefix, begin = manifest.decoder, manifest.prefix, manifest.generation.prompt_rows
    positions = decoder["max_positions"] - decoder["position_offset"]
    rows = begin if manifest.has_cross else prefix.length + begin
    if rows >= positions:
        raise BundleError(f"decoder: max_positions leaves no room for text after {rows} rows")
    if manifest.has_cross:
        if prefix.length * prefix.images != decoder["cross_keys"]:
            raise BundleError(f"prefix: {prefix.images} x {prefix.length} keys are not the decoder's cross_keys")
        if not manifest.generation.begin_ids:
            raise BundleError("generation: a decoder with cross-attention needs begin_ids")
        if manifest.bias.span != "prefix":
            raise BundleError("bias: a cross-attention has no text keys for the span sequence")
    elif prefix.images > 1:
        raise BundleError("prefix: several images need a decoder with cross-attention")
    if prefix.images > 1 and manifest.generation.states is not None:
        raise BundleError("generation.states: whose states these are is not said with several images")
    if manifest.kernel_prefill and not _is_plain(decoder):
        raise BundleError("prefill: the kernel does not take such a decoder")
    if manifest.prefill_int8 and not manifest.kernel_prefill:
        raise BundleError("prefill_int8: the prefill is not the kernel's")
    sequence = manifest.bias.sequence_length
    if sequence is not None and not prefix.length + begin < sequence <= positions:
        raise BundleError(f"bias: sequence_length must be above {prefix.length + begin} and at most {positions}")
    used = [manifest.vision_file, manifest.weights_file, manifest.tokenizer_file]
    graphs = (manifest.vision_fp16_file, manifest.vision_static_file, manifest.vision_tensorrt_file)
    optional = [name for name in (*graphs, manifest.draft_file, manifest.coding_file) if name is not None]
    if len({*used, *optional}) != len(used) + len(optional):
        raise BundleError("graphs, weights, tokenizer, draft and coding must be different files")
