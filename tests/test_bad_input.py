"""Whatever is thrown at the loaders, a thousand times over: what comes out is a result, or one of our errors in one
paragraph that names the place."""

from __future__ import annotations

import copy
import gzip
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from actors.requests import read_rows
from pit_ray.config import load_config
from pit_ray.config.load import parse_config
from pit_ray.config.tree import Config, Data, FieldLength, Lengths
from pit_ray.data.lengths import apply_lengths
from pit_ray.data.preferences import load_pairs
from pit_ray.data.splits import split_pairs
from pit_ray.data.templates import Renderer
from pit_ray.errors import DataError, PitRayError
from pit_ray.models.load import train_tokenizer
from pit_ray.records import Pairs

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


T = TypeVar("T")


def result_or_refusal(call: Callable[[], T], *places: str) -> T | None:
    """What `call` returns; None where it ends in an error of ours, one paragraph of bearable length with a place."""
    try:
        return call()
    except PitRayError as error:
        said = str(error)
        assert said.strip() and "\n\n" not in said and len(said) < 6000, said[:500]
        assert any(place in said for place in places), said[:500]
        return None


def comes_back(config: Config) -> bool:
    """Whether a run folder would give this configuration back as it is."""
    return parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "again") == config


# --- Configurations ---

GOOD = Config.model_validate(
    {"data": {"source": "pairs.jsonl"}, "model": {"path": "somewhere"}, "ready": {"reward": "there"}}
).model_dump(mode="json")


def names_in(tree: Any) -> set[str]:
    if isinstance(tree, list):
        return set().union(*map(names_in, tree))
    return set(tree).union(*map(names_in, tree.values())) if isinstance(tree, dict) else set()


NAMES = st.sampled_from(sorted(names_in(GOOD)))
MISSPELT = st.builds(lambda name, at, c: name[:at] + c + name[at + 1 :], NAMES, st.integers(0, 9), st.text(max_size=2))
KEY = NAMES | MISSPELT | st.text(max_size=5) | st.sampled_from(["", ".", "a.b", "x" * 9999, "\0", "\ud800", "\x1b[2J"])
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["${seed}", "${", "${oc.env:NOPE}", "${..}", "???", "world:note", "x" * 9999, 10**400, "\ud800"])
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEY | st.integers() | st.booleans() | st.none(), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def trees(draw: st.DrawFn) -> Any:
    """A good tree in which some branches are replaced, removed or added at any depth."""
    tree: Any = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        at = tree
        for _ in range(draw(st.integers(0, 3))):
            inner = [v for v in (at.values() if isinstance(at, dict) else at) if v and isinstance(v, dict | list)]
            at = draw(st.sampled_from(inner)) if inner else at
        if isinstance(at, list):
            at.append(draw(VALUE))
        elif draw(st.booleans()) and at:
            at[draw(st.sampled_from(sorted(at, key=str)))] = draw(VALUE)
        else:
            at[draw(KEY)] = draw(VALUE)
    return draw(st.sampled_from([tree] * 9 + [draw(VALUE)]))


@settings(SHARED, max_examples=200)
@given(trees())
def test_any_tree(tree: Any) -> None:
    config = result_or_refusal(lambda: parse_config(tree, "the tree"), "the tree")
    assert config is None or comes_back(config)


@settings(SHARED, max_examples=100)
@given(trees(), st.binary(max_size=4), st.floats(0, 1), st.sampled_from(["replace", "insert", "cut"]))
def test_any_recipe(tmp_path: Path, tree: Any, noise: bytes, at: float, how: str) -> None:
    content = yaml.dump(tree, allow_unicode=True, Dumper=yaml.SafeDumper).encode("utf-8", "surrogatepass")
    i = int(at * len(content))
    rest = {"replace": content[i + len(noise) :], "insert": content[i:], "cut": b""}[how]
    (tmp_path / "mine.yaml").write_bytes(content[:i] + noise + rest)
    config = result_or_refusal(lambda: load_config(str(tmp_path / "mine.yaml")), "mine.yaml")
    assert config is None or comes_back(config)


ODD = (
    st.text(max_size=8) | VALUE.map(repr) | st.sampled_from(["{a: [1", "[" * 3000, "1e999", ".nan", "null", "'", "- x"])
)
OVERRIDE = st.tuples(st.lists(KEY, min_size=1, max_size=4).map(".".join), st.sampled_from(["=", "=", "", "=="]), ODD)


@settings(SHARED, max_examples=150)
@given(st.lists(OVERRIDE.map("".join), min_size=1, max_size=3))
def test_any_override(overrides: list[str]) -> None:
    wrong = "is not of the form key=value"
    config = result_or_refusal(lambda: load_config("quickstart", overrides), "quickstart", wrong)
    assert config is None or comes_back(config)


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "run: !!python/object/apply:os.mkdir [{0}/made]", "[" * 20_000, "? [a]\n: b", "a: b: c"]
)
def test_yaml_that_would_harm(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text.format(tmp_path))
    assert result_or_refusal(lambda: load_config(str(tmp_path / "mine.yaml")), "mine.yaml") is None
    assert not (tmp_path / "made").exists()


# --- Files ---

ROWS = [{"prompt": f"Ask {i}?", "chosen": f"yes, {i} <|end|>", "rejected": f"né {i}", "more": i} for i in range(14)]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
FILES = {
    "a.jsonl": LINES,
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "a.jsonl.gz": gzip.compress(LINES, mtime=0),
    "a.parquet": parquet(ROWS),
    "talk.jsonl": "".join(
        json.dumps({side: [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": f"{side} {i}"}]
                    for side in ("chosen", "rejected")}) + "\n" for i in range(14)
    ).encode(),
}  # fmt: skip
NOISE = st.binary(min_size=1, max_size=4) | st.sampled_from([b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n"])
MUTATION = st.tuples(st.sampled_from(["replace", "insert", "remove", "cut", "double"]), st.floats(0, 1), NOISE)


def mutated(content: bytes, mutations: list[tuple[str, float, bytes]]) -> bytes:
    for how, at, noise in mutations:
        i = int(at * len(content))
        head, rest = content[:i], content[i:]
        content = {
            "replace": head + noise + rest[len(noise) :],
            "insert": head + noise + rest,
            "remove": head + rest[5 * len(noise) :],
            "cut": head,
            "double": content + rest,
        }[how]
    return content


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    return Renderer(copy.deepcopy(tokenizer), "Improve it.")


def read_all(path: Path, renderer: Renderer, lengths: Lengths) -> Pairs:
    """Everything between a file and the token ids that are trained on."""
    data = Data(source=str(path), held_out=1, validation=1)
    splits = split_pairs(load_pairs(data).pairs, data, seed=0)
    return apply_lengths(renderer.tokenise(splits.sft), lengths)[0]


LENGTH = st.builds(
    FieldLength, max_tokens=st.sampled_from([1, 8, 512]), policy=st.sampled_from(["error", "drop", "truncate"])
)
LENGTHS = st.builds(Lengths, prompt=LENGTH, draft=LENGTH, response=LENGTH)


@settings(SHARED, max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.lists(MUTATION, min_size=1, max_size=3), LENGTHS)
def test_any_damage_to_a_file(
    tmp_path: Path, renderer: Renderer, name: str, mutations: list[tuple[str, float, bytes]], lengths: Lengths
) -> None:
    (tmp_path / name).write_bytes(mutated(FILES[name], mutations))
    pairs = result_or_refusal(lambda: read_all(tmp_path / name, renderer, lengths), name, "data.lengths")
    assert pairs is None or (len(pairs) and renderer.eos not in pairs.chosen.values)


WORDS = st.lists(
    st.sampled_from(
        ["<|end|>", "</s>", "\ue000", "0", "\ue001", "\x1b[2J", "\u202e", "\0", "é", " ", "Human:", "x" * 999]
    ),
    max_size=5,
).map("".join)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "<|end|>", ""]), "content": WORDS | SCALAR}
)
FIELD = WORDS | st.lists(MESSAGE, max_size=3) | VALUE
ROW = st.fixed_dictionaries({}, optional={"prompt": FIELD, "chosen": FIELD, "rejected": FIELD, "draft": FIELD}) | VALUE


@settings(SHARED, max_examples=250)
@given(rows=st.lists(ROW, min_size=1, max_size=4), among=st.booleans(), lengths=LENGTHS)
def test_any_rows(tmp_path: Path, renderer: Renderer, rows: list[Any], among: bool, lengths: Lengths) -> None:
    odd = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / "odd.jsonl"
    path.write_bytes(LINES + odd if among else odd)
    pairs = result_or_refusal(lambda: read_all(path, renderer, lengths), "odd.jsonl", "data.lengths")
    assert pairs is None or (len(pairs) and renderer.eos not in pairs.chosen.values)
    path.write_bytes(b'{"prompt": "fine"}\n' + odd)
    for row in result_or_refusal(lambda: read_rows(path), "odd.jsonl:") or []:
        talk = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
        assert renderer.prompt_ids(talk)


# --- Texts of a megabyte ---

MEGABYTE = {"word": "x" * 10**6, "control tokens": "<|end|>" * 140_000, "unicode": "é𝕏" * 160_000}


@pytest.mark.parametrize("text", MEGABYTE.values(), ids=MEGABYTE)
def test_a_text_of_a_megabyte_is_cut_or_refused_like_any_other(tmp_path: Path, renderer: Renderer, text: str) -> None:
    path = tmp_path / "long.jsonl"
    long = {"prompt": "Long?", "chosen": f"a {text}", "rejected": "b"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:5], long]))
    tokenised = renderer.tokenise(load_pairs(Data(source=str(path))).pairs)
    assert renderer.eos not in tokenised.chosen.values
    cut = FieldLength(max_tokens=20, policy="truncate")
    fitted, report = apply_lengths(tokenised, Lengths(draft=cut, response=cut))
    assert report.counts["response"]["truncated"] == 1 and int(fitted.chosen.lengths.max()) == 20
    with pytest.raises(DataError, match=r"uid 5 has \d{6,} tokens, more than data.lengths.response.max_tokens = 512"):
        apply_lengths(tokenised, Lengths(response=FieldLength(policy="error")))


@pytest.mark.parametrize("text", ["x" * 10**6, " " * 10**6], ids=["word", "spaces"])
def test_a_tokenizer_learns_from_a_word_of_a_megabyte_in_a_moment(text: str) -> None:
    began = time.process_time()
    assert len(train_tokenizer([text, "a few words"], 300)) <= 300
    assert time.process_time() - began < 10  # six minutes, where the word is taken whole
