# SPDX-License-Identifier: Apache-2.0
"""What a model writes behind a given text: where its tokens begin, and where it ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.text import sentence_spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.text import TextDecoder

_LAST_WORD = re.compile(r"\s*[\w'-]+$")


def begin_word(text: TextDecoder, given: str, after: Callable[[list[int]], NDArray[np.float32]]) -> list[int] | None:
    """Token ids whose text begins with `given` and may go on beyond it, to the end of the token the model likes best.

    The last word's own tokens are not what a longer word is written with ("hea" is not the beginning of "heart" in
    tokens), so that word is written anew: each token the likeliest of those that agree with what was typed.

    Parameters
    ----------
    after : callable
        Logits [vocab] of what follows the given ids.

    Returns
    -------
    list of int, or None
        ``None`` where `given` does not end within a word, or cannot be written this way.
    """
    import numpy as np

    match = _LAST_WORD.search(given)
    if match is None:
        return None
    ids, rest = text.encode(given[: match.start()]), match.group()
    if not ids:
        rest = given
    while rest:
        fits = text.agreeing(rest)
        if not fits:
            return None
        best = fits[int(np.argmax(after(ids)[fits]))]
        ids.append(best)
        rest = rest[len(text.decode([best])) :]
    return ids if text.decode(ids).startswith(given) else None


class Tail:
    """The text that grows behind a given one, up to the end of a sentence.

    A sentence has ended when something follows it: a stop may belong to an abbreviation or a number. So the token that
    shows the end is drawn, but is not part of the text.

    Parameters
    ----------
    decode : callable
        Text of token ids.
    forced : list of int
        The ids that are there.
    begin : int
        Where in their text the tail begins.
    given : str
        The text as it was given, white space at its end included.
    sentences : int or None
        How many to write.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], forced: list[int], begin: int, given: str, sentences: int | None
    ) -> None:
        self._decode, self._ids, self._sentences = decode, list(forced), sentences
        self._begin = begin
        self._spaced = not given.strip() or given[-1:].isspace()
        self._sent = 0
        self.whole = decode(forced) if forced else ""
        self.tokens = 0
        self.done = False

    @property
    def text(self) -> str:
        """What is certain of the tail."""
        tail = self.whole[self._begin :]
        return tail.lstrip() if self._spaced else tail

    def push(self, token: int) -> str:
        """The text that became certain with `token`; often empty."""
        self._ids.append(token)
        whole = self._decode(self._ids).rstrip("\ufffd")
        spans = sentence_spans(whole)
        ended = [right for _, right in spans[:-1] if right > self._begin]
        if self._sentences is not None and len(ended) >= self._sentences:
            self.done = True
            whole = whole[: ended[self._sentences - 1]]
            if len(whole) > len(self.whole):
                self.tokens += 1
        else:
            self.tokens += 1
        self.whole = whole
        return self._advance(self.text.rstrip())

    def finish(self) -> str:
        """The rest, once there are no more tokens; white space at the end is no part of the text."""
        self.whole = self.whole.rstrip() if len(self.whole) > self._begin else self.whole
        return self._advance(self.text)

    def _advance(self, text: str) -> str:
        piece, self._sent = text[self._sent :], max(self._sent, len(text))
        return piece
