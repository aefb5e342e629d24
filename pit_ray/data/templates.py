"""The one renderer: conversations to token ids, for every stage; saved with each model so that all agree.

Layouts: the policy and R_P see x ‖ y; the improver and R_PIT see x ‖ draft ‖ bridge ‖ y. The bridge is whatever the
chat template puts between an assistant turn and the next one when the user asks for an improvement. The paper does
not say how x and y_ref are joined; this is our choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pit_ray.errors import DataError, cause, listed
from pit_ray.records import ROLES, Message, Pairs, PreferencePair, Ragged

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For tokenizers that bring no chat template."""

FILE, TOKENIZER_FILE = "renderer.json", "tokenizer_config.json"
_OPEN, _CLOSE = "\ue000", "\ue001"
Layout = list[list[int] | int]
"""Template text as token ids, and between them the numbers of the contents that belong there."""


class Renderer:
    """Token ids of prompts, responses and the bridge between a draft and its revision, by one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, improve_instruction: str) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token")
        self.tokenizer = tokenizer
        self.improve_instruction = improve_instruction
        self.eos = int(tokenizer.eos_token_id)
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._control = special.union(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        if not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN_TEMPLATE
        self._layouts: dict[tuple[str, ...], Layout] = {}
        """Of the conversations seen so far, by their roles."""
        self.bridge = self.bridge_to(improve_instruction)

    @classmethod
    def load(cls, folder: Path) -> Renderer:
        """The renderer saved beside a model; DataError when the folder has none."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise DataError(f"{folder}: no {FILE} here, so this model was not written by pit-ray")
        saved = json.loads(path.read_text(encoding="utf-8"))
        try:
            tokenizer = _tokenizer_class(Path(folder)).from_pretrained(str(folder), trust_remote_code=False)
        except Exception as error:  # a library's parsers raise many kinds
            raise DataError(f"{folder}: its tokenizer cannot be loaded: {cause(error)}") from error
        return cls(tokenizer, saved["improve_instruction"])

    def save(self, folder: Path) -> None:
        """Writes the tokenizer with its chat template, and what else the renderer needs, beside a model."""
        self.tokenizer.save_pretrained(str(folder))
        (Path(folder) / FILE).write_text(
            json.dumps({"improve_instruction": self.improve_instruction}, indent=2) + "\n", encoding="utf-8"
        )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """x: the conversation up to where the assistant's response begins. DataError for a role that is none of ROLES
        (it stands outside the contents, so it could spell out a control token), or one that the template refuses."""
        return _filled(self._layout(messages), self.all_response_ids([m["content"] for m in messages]))

    def response_ids(self, text: str) -> list[int]:
        """y without an end token; special tokens spelled out in the text stay plain text."""
        return self.all_response_ids([text])[0]

    def all_response_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """`response_ids` of several texts at once."""
        found = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [self._harmless(ids) for ids in found]

    def _harmless(self, ids: list[int]) -> list[int]:
        if self._control.isdisjoint(ids):
            return ids
        # A word-level tokenizer finds its control tokens in its vocabulary, whatever it is told.
        unknown = self.tokenizer.unk_token_id
        harmless = [unknown if i in self._control else i for i in ids]
        return [i for i in harmless if i is not None]

    def text(self, ids: Iterable[int]) -> str:
        """Ids as text for people."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def user_text(self, prompt: np.ndarray) -> str:
        """What the user says in a rendered prompt of one turn, as text."""
        before, _, after = self._render(["user"]).partition(f"{_OPEN}0{_CLOSE}")
        first, last = (len(self.tokenizer.encode(part, add_special_tokens=False)) for part in (before, after))
        return self.text(prompt[first : len(prompt) - last])

    def tokenise(self, pairs: Sequence[PreferencePair]) -> Pairs:
        """Preference pairs as token ids, rows in order. DataError names the row whose prompt cannot be rendered."""
        return Pairs(
            uid=np.array([pair.uid for pair in pairs], dtype=np.int64),
            prompt=Ragged.of(self._prompts(pairs)),
            chosen=Ragged.of(self.all_response_ids([pair.chosen for pair in pairs])),
            rejected=Ragged.of(self.all_response_ids([pair.rejected for pair in pairs])),
        )

    def _prompts(self, pairs: Sequence[PreferencePair]) -> Iterator[list[int]]:
        """`prompt_ids` of each, all contents encoded at once."""
        contents = iter(self.all_response_ids([m["content"] for pair in pairs for m in pair.prompt]))
        for pair in pairs:
            try:
                layout = self._layout(pair.prompt)
            except DataError as error:
                raise DataError(f"row {pair.uid} (from 0) of the data: {error}") from error
            yield _filled(layout, list(islice(contents, len(pair.prompt))))

    def _layout(self, messages: Sequence[Message]) -> Layout:
        roles = tuple(m["role"] for m in messages)
        if roles not in self._layouts:
            self._layouts[roles] = self._laid_out(self._render(roles))
        return self._layouts[roles]

    def _render(self, roles: Sequence[str]) -> str:
        """The template's text for turns of these roles, with a numbered mark in place of each content."""
        if wrong := set(roles).difference(ROLES):
            raise DataError(f"no role {listed(map(repr, sorted(wrong)))}; the roles are {', '.join(ROLES)}")
        marked = [{"role": role, "content": f"{_OPEN}{i}{_CLOSE}"} for i, role in enumerate(roles)]
        try:
            return str(self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise DataError(f"the chat template refuses turns of {', '.join(roles)}: {cause(error)}") from error

    def _laid_out(self, rendered: str) -> Layout:
        layout: Layout = []
        for piece in rendered.split(_OPEN):
            number, closed, after = piece.partition(_CLOSE)
            if closed:
                layout.append(int(number))
            layout.append(self.tokenizer.encode(after if closed else number, add_special_tokens=False))
        return layout

    def bridge_to(self, instruction: str) -> np.ndarray:
        """The token ids between an assistant's turn and the next one, when the user says `instruction` there: (n,)
        int32. DataError when the chat template leaves out earlier turns."""
        rendered = self._render(["user", "assistant", "user"])
        _, found, after = rendered.partition(f"{_OPEN}1{_CLOSE}")
        if not found:
            raise DataError(f"{self.tokenizer.name_or_path}: the chat template leaves out an earlier assistant turn")
        contents = self.all_response_ids(["", "", instruction])
        return np.array(_filled(self._laid_out(after), contents), dtype=np.int32)


def _filled(layout: Layout, contents: Sequence[Sequence[int]]) -> list[int]:
    # Template and contents are encoded apart, so that a content can never be read as a control token.
    return [i for piece in layout for i in (contents[piece] if isinstance(piece, int) else piece)]


def _tokenizer_class(folder: Path) -> Any:
    """The class of a saved tokenizer, or what finds it out. That brings PyTorch with it, which takes seconds to import,
    and most tokenizers do not need: they are their tokenizer.json, and were saved by this class."""
    known = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8")).get("tokenizer_class")
    plain = transformers.PreTrainedTokenizerFast
    return plain if known == plain.__name__ else transformers.AutoTokenizer
