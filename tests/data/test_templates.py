"""The renderer: what a template says, no control token that a text spells out, and the same ids after save and load."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pit_ray.curriculum import POLICY, with_drafts
from pit_ray.data.templates import FILE, Renderer
from pit_ray.data.worlds import WORLDS
from pit_ray.errors import DataError
from pit_ray.learn.documents import word_tokenizer
from pit_ray.records import Message, PreferencePair, Prompts, Ragged

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<user>", "<assistant>", "<end>", "<pad>", "<unknown>"]


def chatml(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with the turns of ChatML, as many public models have them."""
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def renderers(tokenizer: PreTrainedTokenizerFast) -> dict[str, Renderer]:
    """By tokenizer: one without a template, ChatML, and that of the world's own base model."""
    return {
        "plain": Renderer(copy.deepcopy(tokenizer), "Improve it."),
        "chatml": Renderer(chatml(copy.deepcopy(tokenizer)), "Improve it."),
        "words": Renderer(word_tokenizer(WORLDS["notes"].vocabulary()), "improve"),
    }


NAMES = ["plain", "chatml", "words"]
EVERY = pytest.mark.parametrize("name", NAMES)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def control_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The control tokens among `ids`, in order; <unknown> is none, as it says nothing."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [i for i in ids if i in special]


NASTY = st.lists(
    st.sampled_from([*CONTROL, "\ue000", "0", "1", "\ue001", " ", "\n", "a"]) | st.text(max_size=3), max_size=8
).map("".join)


@EVERY
@given(first=NASTY, reply=NASTY, last=NASTY)
@example(first="a <user> b", reply="<end>", last="<|im_start|> <|end|>")
def test_a_text_never_becomes_a_control_token(
    renderers: dict[str, Renderer], name: str, first: str, reply: str, last: str
) -> None:
    renderer = renderers[name]
    tokenizer = renderer.tokenizer
    harmless = renderer.prompt_ids([user("a"), assistant("a"), user("a")])
    spelled = renderer.prompt_ids([user(first), assistant(reply), user(last)])
    assert control_ids(tokenizer, spelled) == control_ids(tokenizer, harmless)
    assert control_ids(tokenizer, renderer.response_ids(reply)) == []


def sentence_pieces() -> PreTrainedTokenizerFast:
    """Words behind ▁ with <s> and </s>, as the Llama 2 family has them, and a normaliser that makes ｅ an e."""
    corpus = ["tell anna about the lamp", "dear anna , i saw the lamp . < / s > | end"]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unlisted(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With a control token that no name such as eos_token stands for, as <|start_header_id|> in the Llama 3 family."""
    tokenizer.add_tokens([AddedToken("<|header|>", special=True)])
    return tokenizer


def without_unknown() -> PreTrainedTokenizerFast:
    """Whole words, and nothing that an unknown word or a forbidden one could become."""
    ids = {"<end>": 0, "<user>": 1, "a": 2, "b": 3}
    made = Tokenizer(models.WordLevel(ids, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", additional_special_tokens=["<user>"])


SPELLED = ["</s>", "<s>", "＜/s＞", "<|end|>", "<|header|>", "<end>", "<user>", "a</s>b", "</s></s>", " <s> "]


@pytest.mark.parametrize("text", [*SPELLED, "a ".join(SPELLED)])
@pytest.mark.parametrize("kind", ["pieces", "unlisted", "no unknown"])
def test_no_family_of_tokenizers_lets_a_text_spell_a_control_token(
    tokenizer: PreTrainedTokenizerFast, kind: str, text: str
) -> None:
    made = {
        "pieces": sentence_pieces,
        "unlisted": lambda: unlisted(copy.deepcopy(tokenizer)),
        "no unknown": without_unknown,
    }
    renderer = Renderer(made[kind](), "Improve it.")
    control = {i for i, token in renderer.tokenizer.added_tokens_decoder.items() if token.special}
    control -= {renderer.tokenizer.unk_token_id}
    assert len(control) >= 2
    assert control.isdisjoint(renderer.response_ids(text))
    rendered, plain = renderer.prompt_ids([user(text)]), renderer.prompt_ids([user("a")])
    assert [i for i in rendered if i in control] == [i for i in plain if i in control]
    # A template's own control tokens are still read as such, also after a text has been.
    assert renderer.eos in renderer.bridge


@pytest.mark.parametrize("role", ["<|end|>", "tool", "", "\ue0000\ue001", "assistant\n<|end|>"])
def test_a_role_cannot_smuggle_a_control_token(renderers: dict[str, Renderer], role: str) -> None:
    with pytest.raises(DataError, match="the roles are system, user, assistant"):
        renderers["chatml"].prompt_ids([{"role": role, "content": "hi"}, user("go")])


def test_a_template_that_refuses_a_turn_is_said_by_row(tokenizer: PreTrainedTokenizerFast) -> None:
    strict = copy.deepcopy(tokenizer)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    strict.chat_template = refusing + CHATML
    pair = PreferencePair(({"role": "system", "content": "be kind"}, user("hi")), "yes", "no", 7)
    with pytest.raises(
        DataError, match=r"^row 7 \(from 0\) .*refuses turns of system, user: System role not supported"
    ):
        Renderer(strict, "Improve it.").tokenise([pair])


@given(text=NASTY)
def test_a_response_is_its_text_and_nothing_else(renderers: dict[str, Renderer], text: str) -> None:
    renderer = renderers["chatml"]
    assert renderer.tokenizer.decode(renderer.response_ids(text)) == text


CONVERSATIONS: list[list[Message]] = [
    [user("tell anna about the lamp")],
    [user("hello"), assistant("dear anna , here is"), user("the boat .")],
    [{"role": "system", "content": "be quiet"}, user("  spaced\n")],
]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_a_prompt_reads_as_the_template_renders_it(
    renderers: dict[str, Renderer], name: str, conversation: list[Message]
) -> None:
    tokenizer = renderers[name].tokenizer
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(renderers[name].prompt_ids(conversation)) == rendered


def test_the_plain_template_serves_tokenizers_that_have_none(
    tokenizer: PreTrainedTokenizerFast, renderers: dict[str, Renderer]
) -> None:
    assert tokenizer.chat_template is None
    plain = renderers["plain"]
    ids = plain.prompt_ids([user("hi"), assistant("yes"), user("go")])
    assert plain.tokenizer.decode(ids) == "User:\nhi\n\nAssistant:\nyes<|end|>\n\nUser:\ngo\n\nAssistant:\n"
    assert ids.count(plain.eos) == 1


def test_a_template_that_is_there_is_kept(renderers: dict[str, Renderer]) -> None:
    assert renderers["chatml"].tokenizer.chat_template == CHATML
    ids = renderers["chatml"].prompt_ids([user("hi")])
    assert renderers["chatml"].tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@EVERY
def test_the_bridge_is_what_the_template_puts_between_a_draft_and_its_revision(
    renderers: dict[str, Renderer], name: str
) -> None:
    renderer = renderers[name]
    asked, draft = user("tell anna about the lamp"), "here is the lamp ."
    asked_again = [asked, assistant(draft), user(renderer.improve_instruction)]
    together = [*renderer.prompt_ids([asked]), *renderer.response_ids(draft), *renderer.bridge.tolist()]
    assert together == renderer.prompt_ids(asked_again)


def test_bridges_in_words(renderers: dict[str, Renderer]) -> None:
    shown = {name: renderer.tokenizer.decode(renderer.bridge.tolist()) for name, renderer in renderers.items()}
    assert shown == {
        "plain": "<|end|>\n\nUser:\nImprove it.\n\nAssistant:\n",
        "chatml": "<|im_end|>\n<|im_start|>user\nImprove it.<|im_end|>\n<|im_start|>assistant\n",
        "words": "<end> <user> improve <assistant>",
    }


@EVERY
def test_a_context_is_prompt_draft_and_bridge(renderers: dict[str, Renderer], name: str) -> None:
    renderer = renderers[name]
    asked = [renderer.prompt_ids([user(text)]) for text in ("dear anna", "the lamp")]
    drafts = [renderer.response_ids(text) for text in ("here is", "i saw the lamp .")]
    plain = Prompts(np.arange(2), Ragged.of(asked), Ragged.of([[], []]), np.zeros(2, dtype=np.int8))
    improving = with_drafts(plain, Ragged.of(drafts), POLICY, renderer.bridge)
    assert [row.tolist() for row in plain.contexts().rows()] == asked
    assert [row.tolist() for row in improving.contexts().rows()] == [
        [*x, *draft, *renderer.bridge.tolist()] for x, draft in zip(asked, drafts, strict=True)
    ]


@EVERY
def test_a_saved_renderer_gives_the_same_ids(renderers: dict[str, Renderer], name: str, tmp_path: Path) -> None:
    before = renderers[name]
    before.save(tmp_path)
    after = Renderer.load(tmp_path)
    text = "dear anna , <|end|> <user> é 𝕏 \ue0000\ue001 here is the lamp ."
    for conversation in (*CONVERSATIONS[:2], [user(text)]):
        assert after.prompt_ids(conversation) == before.prompt_ids(conversation)
    assert after.response_ids(text) == before.response_ids(text)
    assert after.bridge.tolist() == before.bridge.tolist()
    assert (after.eos, after.improve_instruction) == (before.eos, before.improve_instruction)


def test_tokenise_keeps_pairs_in_order_and_adds_no_end(renderers: dict[str, Renderer]) -> None:
    renderer = renderers["words"]
    pairs = [
        PreferencePair((user("tell anna about the lamp"),), "dear anna", "dear ben .", 7),
        PreferencePair((user("tell ben"),), "hello ben ,", "best wishes", 3),
    ]
    table = renderer.tokenise(pairs)
    assert table.uid.tolist() == [7, 3]
    assert renderer.tokenizer.decode(table.prompt[1].tolist()) == "<user> tell ben <assistant>"
    assert [renderer.text(row) for row in table.chosen.rows()] == ["dear anna", "hello ben ,"]
    assert [renderer.text(row) for row in table.rejected.rows()] == ["dear ben .", "best wishes"]
    assert renderer.eos not in {*table.chosen.values.tolist(), *table.rejected.values.tolist()}


def test_text_for_people_has_no_control_tokens(renderers: dict[str, Renderer]) -> None:
    for renderer in renderers.values():
        ids = [*renderer.bridge.tolist(), *renderer.response_ids("dear anna"), renderer.eos]
        shown = renderer.text(ids)
        assert shown.endswith("dear anna")
        assert not any(token in shown for token in CONTROL)


def test_a_folder_without_a_renderer_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(DataError, match=FILE):
        Renderer.load(tmp_path)


def without_end(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.eos_token = None
    return tokenizer


def forgetful(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    return tokenizer


@pytest.mark.parametrize(
    ("change", "wrong"),
    [(without_end, "no end-of-sequence token"), (forgetful, "leaves out an earlier assistant turn")],
)
def test_tokenizers_that_cannot_serve_are_refused(
    tokenizer: PreTrainedTokenizerFast,
    change: Callable[[PreTrainedTokenizerFast], PreTrainedTokenizerFast],
    wrong: str,
) -> None:
    with pytest.raises(DataError, match=wrong):
        Renderer(change(copy.deepcopy(tokenizer)), "improve")
