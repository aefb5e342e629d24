"""Texts of one service: a renderer that many threads share, and a response told while it is being written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from pit_ray.data.templates import Renderer

REPLACEMENT = "\ufffd"
"""Stands for bytes that are not yet a character."""
LONGEST_WORD = 16
"""Characters that are held back at most; some languages write no spaces."""


class SharedRenderer(Renderer):
    """A renderer for several threads. A tokenizer keeps in itself whether special tokens are split, so a second thread
    could otherwise have a prompt's text read as control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, improve_instruction: str) -> None:
        self._alone = threading.RLock()
        super().__init__(tokenizer, improve_instruction)

    def all_response_ids(self, texts: Sequence[str]) -> list[list[int]]:
        with self._alone:
            return super().all_response_ids(texts)

    def text(self, ids: Iterable[int]) -> str:
        with self._alone:
            return super().text(ids)

    def _laid_out(self, rendered: str) -> list[list[int] | int]:
        with self._alone:
            return super()._laid_out(rendered)


class TextStream:
    """What a growing response adds to its text. The last word is held back until the next one begins: more tokens may
    change it, and so may a tokenizer that takes out spaces before punctuation."""

    def __init__(self, text: Callable[[Iterable[int]], str]) -> None:
        self.text = text
        self.ids: list[int] = []
        self.told = ""

    def add(self, ids: Sequence[int]) -> str:
        """The text that is certain with these further tokens, and was not before."""
        self.ids += ids
        whole = self.text(self.ids)
        certain = whole.rstrip(REPLACEMENT)
        cut = max(certain.rfind(" "), certain.rfind("\n"), len(certain) - LONGEST_WORD, 0)
        certain = certain[:cut].rstrip()
        if not certain.startswith(self.told):
            return ""
        return self._tell(certain)

    def end(self, whole: str) -> str:
        """The rest of the finished text."""
        return self._tell(whole)

    def _tell(self, certain: str) -> str:
        same = (a == b for a, b in zip(certain, self.told, strict=False))
        new = certain[sum(takewhile(bool, same)) :]
        self.told = certain
        return new
