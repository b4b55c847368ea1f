# SPDX-License-Identifier: Apache-2.0
"""What stands before a text in the decoder: a context that the model reads, its begin ids, the states of findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from edge.errors import UsageError
from edge.numeric import as_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.manifest import ContextPart, Manifest, StatePrompt

    ContextTexts: TypeAlias = str | Mapping[str, str] | None


_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Context:
    """A context as it goes to the decoder.

    Attributes
    ----------
    ids : tuple of int
    given : tuple of str
        Names of the parts that there was a text for.
    warnings : tuple of str
        Parts that were cut.
    """

    ids: tuple[int, ...] = ()
    given: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def context_of(parts: Sequence[ContextPart], texts: ContextTexts, encode: Callable[[str], Sequence[int]]) -> Context:
    """Tokens of a context.

    Parameters
    ----------
    parts : sequence of ContextPart
        What the model reads, in order.
    texts : str or mapping of str to str, optional
        By the parts' names; a plain text is enough for a model with one part. Empty texts count as absent.
    encode : callable
        A text to token ids, none of them special.

    Raises
    ------
    UsageError
        The model reads no context, or none of such a name.
    """
    if texts is None:
        texts = {}
    elif isinstance(texts, str):
        if not parts:
            raise UsageError(f"no context can be given: {_names(parts)}")
        if len(parts) > 1:
            raise UsageError(f"say which context the text is: {_names(parts)}")
        texts = {parts[0].name: texts}
    elif not isinstance(texts, Mapping):
        raise UsageError("context must be a text, or texts by name")
    known = {part.name for part in parts}
    for name, text in texts.items():
        if name not in known:
            raise UsageError(f"no context {str(name)[:40]!r}: {_names(parts)}")
        if not isinstance(text, str):
            raise UsageError(f"the context {name} must be a text")
    ids: list[int] = []
    given, warnings = [], []
    for part in parts:
        tokens = list(encode(texts.get(part.name, "").strip()))
        if not tokens:
            ids += part.absent
            continue
        if len(tokens) > part.max_tokens:
            warnings.append(f"the context {part.name} was cut at {part.max_tokens} of its {len(tokens)} tokens")
        given.append(part.name)
        ids += [*part.before, *tokens[: part.max_tokens]]
    return Context(tuple(ids), tuple(given), tuple(warnings))


def room_behind(manifest: Manifest, told: Context, forced: int = 0) -> int:
    """Tokens that a text may have behind a context and `forced` tokens of a prompt; below 1: there is no room."""
    generation = manifest.generation
    states = len(generation.states.findings) if generation.states else 0
    return manifest.text_room - len(told.ids) - len(generation.begin_ids) - states - forced


def check_cap(
    cap: int | None, manifest: Manifest, told: Context, forced: int = 0, *, name: str = "max_new_tokens"
) -> int:
    """The token cap of a text; None is the model's own, or what fits.

    Parameters
    ----------
    told, forced
        As for :func:`room_behind`.
    name : str
        What the caller calls the cap.

    Raises
    ------
    UsageError
        So many tokens do not fit into the model's context length. The message says what takes the rest of it, and
        what to do.
    """
    room = room_behind(manifest, told, forced)
    if cap is None and room >= 1:
        return min(manifest.generation.max_new_tokens, room)
    asked = as_whole(cap)
    if asked is not None and 1 <= asked <= room:
        return asked
    length = manifest.text_room + (0 if manifest.has_cross else manifest.prefix.length)
    parts = {"the image": length - manifest.text_room, "the context": len(told.ids), "the prompt": forced}
    parts["what every text begins with"] = length - sum(parts.values()) - room
    taken = ", ".join(f"{tokens} for {part}" for part, tokens in parts.items() if tokens)
    limit = f"its context length is {length} tokens" + (f", less {taken}" if taken else "")
    longest = "prompt" if forced else "context"
    if room < 1:
        raise UsageError(f"the {longest} is too long for this model: {limit}; shorten it")
    todo = f"ask for fewer, or shorten the {longest}" if told.given or forced else "ask for fewer"
    raise UsageError(f"{name} must be a whole number from 1 to {room} with this model: {limit}; {todo}")


def named_texts(words: Sequence[str], parts: Sequence[ContextPart]) -> dict[str, str]:
    """Texts of a context as a command line gives them: ``NAME=TEXT``, ``TEXT`` where there is one name, ``@FILE`` for
    either text.

    Raises
    ------
    UsageError
        A text without a name, a name twice, or a file that cannot be read.
    """
    found: dict[str, str] = {}
    for word in words:
        name = next((part.name for part in parts if word.startswith(f"{part.name}=")), None)
        if name is None and len(parts) == 1:
            name, text = parts[0].name, word
        elif name is None:
            raise UsageError(f"--context: {_names(parts)}" + ("; give NAME=TEXT" if parts else "; leave it out"))
        else:
            text = word[len(name) + 1 :]
        if name in found:
            raise UsageError(f"--context: {name} is there twice")
        found[name] = _read(text[1:]) if text.startswith("@") else text
    return found


def _read(path: str) -> str:
    """A text of at most 64 KiB from a file."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UsageError("--context: the file holds more than a context")
        return data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"--context: the file cannot be read ({error.strerror})") from None
    except ValueError:
        raise UsageError("--context: the file is not text in UTF-8") from None


def _names(parts: Sequence[ContextPart]) -> str:
    if not parts:
        return "this model reads none"
    return f"this model reads {', '.join(part.name for part in parts)}"


@dataclass(frozen=True)
class FindingState:
    """What the model's classifier says about one finding; `confidence` is the state's probability."""

    finding: str
    state: str
    confidence: float

    def to_dict(self) -> dict[str, str | float]:
        """The same as in the JSON."""
        return {"finding": self.finding, "state": self.state, "confidence": self.confidence}


def states_of(spec: StatePrompt, logits: NDArray[np.float32]) -> tuple[tuple[int, ...], tuple[FindingState, ...]]:
    """The likeliest state of every finding: tokens of the prompt, and what they say.

    Parameters
    ----------
    logits : ndarray float32 [findings, states]
    """
    import numpy as np

    best = logits.argmax(1)
    shares = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    found = tuple(
        FindingState(name, spec.names[state], round(float(shares[row, state]), 6))
        for row, (name, state) in enumerate(zip(spec.findings, best, strict=True))
    )
    return tuple(spec.token_ids[state] for state in best), found
