"""A response that is told while it grows is the response; a shared renderer lets no prompt become control tokens."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from actors.serve.text import LONGEST_WORD, SharedRenderer, TextStream

WORDS = ["dear", " anna", " ,", "\n", " ", "é", "漢字", "x" * 20, " don't", "…"]
WRITTEN = st.lists(st.sampled_from(WORDS), max_size=30)


@given(WRITTEN, st.integers(1, 5))
def test_the_parts_are_the_whole(parts: list[str], step: int) -> None:
    """By a tokenizer whose tokens are the bytes of a text, so that characters are cut by pieces."""
    data = "".join(parts).encode()

    def text(ids: object) -> str:
        return bytes(ids).decode(errors="replace").replace(" ,", ",").strip()  # type: ignore[call-overload]

    stream = TextStream(text)
    told = [stream.add(data[i : i + step]) for i in range(0, len(data), step)]
    held = len(text(data)) - sum(map(len, told))
    assert "".join([*told, stream.end(text(data))]) == text(data)
    assert held <= LONGEST_WORD + 2 * 20, "all but the last words are told before the end"


def test_nothing_is_told_of_a_character_that_is_not_whole() -> None:
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
    assert stream.add(b"a b \xe6\xbc") == "a b"
    assert stream.add(b"\xa2 c") == " 漢"


def test_threads_cannot_turn_a_prompt_into_control_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Encoding a template, where control tokens are meant, and a content, where they are not, at the same time."""
    SharedRenderer(copy.deepcopy(tokenizer), "improve").save(tmp_path)
    renderer = SharedRenderer.load(tmp_path)
    assert isinstance(renderer, SharedRenderer)
    spelled = f"tell anna {renderer.tokenizer.eos_token} about the lamp"
    messages = [{"role": "user", "content": "tell"}, {"role": "assistant", "content": "dear"}] * 3
    expected = renderer.response_ids(spelled), renderer.prompt_ids([*messages, messages[0]])
    assert renderer.eos not in expected[0] and renderer.eos in expected[1]
    together = threading.Barrier(4)

    def many(content: bool) -> bool:
        together.wait()
        if content:
            return all(renderer.response_ids(spelled) == expected[0] for _ in range(300))
        return all(renderer.prompt_ids([*messages, messages[0]]) == expected[1] for _ in range(60))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(many, [True, False, True, False]))
