"""Reads preference pairs from files, Arrow folders and the hub, and finds out in which form they are written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pit_ray.config.tree import Data
from pit_ray.data.json_rows import JSON_FILES, Row, json_rows
from pit_ray.errors import LINE, DataError, cause, listed, nearest, no_such_path, short
from pit_ray.records import ROLES, Message, PreferencePair

FILE_TYPES = (*JSON_FILES, ".parquet")
SAMPLE = 64  # rows that decide the form
HUB_NAME = re.compile(r"(?ai)(?!\.|(?:.*\.)?(?:jsonl?|gz|parquet|arrow|csv|te?xt)$)[\w.-]+(/[\w.-]+)?")
TRANSCRIPT_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
RESPONSE_BEGINS = re.compile(
    r"(?i)(?:\A|\n)[ \t#*]*(?:assistant|ai|bot|response|answer|a|output|summary|tl;dr)[ \t*]*:[ \t*]*"
    r"|<\|assistant\|>|<\|im_start\|>assistant\n|\[/INST\]"
)

Response = str | list[Message]  # the response alone, or a conversation that ends with it


@dataclass(frozen=True)
class LoadedPairs:
    """The usable pairs of a source, in its order."""

    pairs: list[PreferencePair]
    form: str
    """explicit text, implicit text, explicit conversational, implicit conversational or hh transcripts."""
    skipped: dict[str, int]
    """Reason -> number of rows that were left out for it."""


class Unusable(Exception):
    """This row is no preference pair; the message is the reason, and is counted."""


def load_pairs(data: Data) -> LoadedPairs:
    """The preference pairs of `data.source`; with `data.pairs`, the first so many usable ones (then reading stops).

    A pair's uid is its row number from 0, unusable rows included. DataError names file and line or row where the source
    cannot be read, has not the columns, holds other things than text, or has no usable row.
    """
    rows = _rows(data)
    sample = list(islice(rows, SAMPLE))
    if not sample:
        raise DataError(f"{data.source}: holds no rows")
    columns = list(dict.fromkeys(name for _, row in sample for name in row))
    form = _form(data.source, [row for _, row in sample], columns)
    pairs: list[PreferencePair] = []
    skipped: Counter[str] = Counter()
    for uid, (where, row) in enumerate(chain(sample, rows)):
        try:
            pairs.append(_pair(row, form, uid))
        except Unusable as reason:
            skipped[str(reason)] += 1
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if len(pairs) == data.pairs:
            break
    # Most responses sharing no beginning means that this is not the implicit form: the prompt is somewhere else.
    if not pairs or skipped["no shared prompt"] > len(pairs):
        reasons = ", ".join(f"{reason}: {count}" for reason, count in skipped.most_common())
        wrong = f"{len(pairs)} usable pairs in {len(pairs) + skipped.total()} rows read as {form} ({reasons})"
        hint = f"; {_no_column('prompt', columns)}" if skipped["no shared prompt"] else ""
        raise DataError(f"{data.source}: {wrong}{hint}")
    return LoadedPairs(pairs, form, dict(skipped))


def _rows(data: Data) -> Iterator[tuple[str, Row]]:
    path = find_source(data.source)
    if path is None or path.is_dir() or path.name.lower().endswith(".parquet"):
        return _dataset_rows(data, path)
    if not path.name.lower().endswith(FILE_TYPES):
        raise DataError(f"{data.source}: not a kind of file that can be read; those are {', '.join(FILE_TYPES)}")
    return json_rows(path, "chosen and rejected")


def find_source(source: str) -> Path | None:
    """The file or folder that `source` names; None for a hub name. DataError for a path where nothing is."""
    try:
        path = Path(source).expanduser() if source.startswith("~/") else Path(source)
        if path.exists():
            return path
        # A name under an existing folder, or with a file's ending, was never meant for the hub.
        if HUB_NAME.fullmatch(source) and (path.parent == Path() or not path.parent.exists()):
            return None
        missing = no_such_path(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"data.source: {short(source, LINE)!r} is neither a file nor a hub name: {cause(error)}"
        ) from None
    raise DataError(f"{source}: {missing}")


def _dataset_rows(data: Data, path: Path | None) -> Iterator[tuple[str, Row]]:
    # Imported here because it takes longer to start than everything else that reads a configuration or a JSON file.
    import datasets
    import pyarrow.parquet

    number = 0
    try:
        if path is None:
            dataset = datasets.load_dataset(data.source, split=data.hub_split)
        elif path.is_dir():
            loaded = datasets.load_from_disk(str(path))
            splits = loaded if isinstance(loaded, datasets.DatasetDict) else {data.hub_split: loaded}
            if data.hub_split not in splits:
                near = nearest(data.hub_split, splits)
                raise ValueError(f"no split {data.hub_split!r}{near} (splits: {', '.join(splits)})")
            dataset = splits[data.hub_split]
        else:
            # Not by load_dataset, which copies the file to a cache, and takes [ and * in its name for a pattern.
            with path.open("rb") as file:
                dataset = datasets.Dataset(pyarrow.parquet.read_table(file))
        for number, row in enumerate(dataset):
            yield f"{data.source}, row {number} (from 0)", row
    except Exception as error:  # whatever a parser or the network raises, the user must know which source it was
        place = f" (split {data.hub_split} on the hub, as no file here has this name)" if path is None else ""
        after = f" after row {number}" if number else ""
        raise DataError(f"{data.source}{place}: cannot be read{after}: {cause(error)}") from error


def _form(source: str, rows: list[Row], columns: list[str]) -> str:
    for name in ("chosen", "rejected"):
        if name not in columns:
            raise DataError(f"{source}: {_no_column(name, columns)}")
    if 2 * sum(_is_transcript(row.get("chosen")) for row in rows) > len(rows):
        return "hh transcripts"
    lists = any(isinstance(row.get(name), list) for row in rows for name in ("prompt", "chosen", "rejected"))
    return f"{'explicit' if 'prompt' in columns else 'implicit'} {'conversational' if lists else 'text'}"


def _pair(row: Row, form: str, uid: int) -> PreferencePair:
    """The pair of a row. Unusable if it says nothing; DataError (without the place) if it is not of the form."""
    chosen, rejected = _response(row, "chosen"), _response(row, "rejected")
    prompt: list[Message] = []
    if form == "hh transcripts":
        chosen, rejected = _turns(chosen), _turns(rejected)
    elif form.startswith("explicit"):
        given = _response(row, "prompt")
        prompt = [{"role": "user", "content": given}] if isinstance(given, str) else given
    elif isinstance(chosen, str) and isinstance(rejected, str):
        text, chosen, rejected = _cut(chosen, rejected)
        prompt = [{"role": "user", "content": text}]
    shared, chosen, rejected = _last_turns(chosen, rejected)
    # A conversation may repeat the prompt, with or without a system turn before it, or go on from it.
    repeated = prompt in (shared[: len(prompt)], shared[len(shared) - len(prompt) :])
    return _checked(shared if shared and repeated else prompt + shared, chosen, rejected, uid)


def _checked(prompt: list[Message], chosen: str, rejected: str, uid: int) -> PreferencePair:
    if not chosen.strip() or not rejected.strip():
        raise Unusable("empty response")
    if chosen.strip() == rejected.strip():
        raise Unusable("equal responses")
    if any(turn["role"] not in ROLES for turn in prompt):
        raise Unusable("a role other than system, user and assistant")
    if not prompt or (prompt[-1]["role"] == "user" and not prompt[-1]["content"].strip()):
        raise Unusable("empty prompt")
    if prompt[-1]["role"] != "user":
        raise Unusable("the prompt does not end with the user's turn")
    return PreferencePair(tuple(prompt), chosen, rejected, uid)


def _last_turns(chosen: Response, rejected: Response) -> tuple[list[Message], str, str]:
    """The turns before the response, and the two responses."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        return [], chosen, rejected
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise DataError("one of chosen and rejected is text and the other a list of messages")
    if not chosen or not rejected:
        raise Unusable("empty response")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise Unusable("the last turn is not the assistant's")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("turns before the response differ")
    return chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def _turns(transcript: Response) -> list[Message]:
    if not isinstance(transcript, str) or not _is_transcript(transcript):
        raise Unusable("not a transcript")
    _, *pieces = TRANSCRIPT_TURN.split(transcript.strip())
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": text.strip()}
        for speaker, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _cut(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and responses out of two texts that begin with the same prompt."""
    chosen, rejected = chosen.strip(), rejected.strip()
    if chosen == rejected:
        raise Unusable("equal responses" if chosen else "empty response")
    differ = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    shared = chosen[: next(differ, min(len(chosen), len(rejected)))]
    # Responses may begin with the same words; so the prompt ends where a turn does, or else a line, or else a word.
    turns = [match.end() for match in RESPONSE_BEGINS.finditer(shared)]
    word = max((match.start() for match in re.finditer(r"\s", shared)), default=0)
    for end in (*turns[-1:], shared.rfind("\n"), word):
        prompt, y_w, y_l = shared[: max(end, 0)].strip(), chosen[end:].strip(), rejected[end:].strip()
        if prompt and y_w and y_l:
            return prompt, y_w, y_l
    raise Unusable("no shared prompt")


def _response(row: Row, name: str) -> Response:
    if name not in row:
        raise DataError(_no_column(name, list(row)))
    value = row[name]
    if value is None:
        raise Unusable("empty prompt" if name == "prompt" else "empty response")
    if isinstance(value, list):
        return [_message(turn, f"message {i} of {name!r}") for i, turn in enumerate(value, 1)]
    return _text(value, f"column {name!r}")


def _message(value: Any, what: str) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= set(value):
        raise DataError(f"{what} should be an object with role and content, found {value!r:.60}")
    return {name: _text(value[name], f"{name} of {what}") for name in ("role", "content")}


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} should be text or a list of messages, found {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has half a surrogate pair at character {error.start + 1}") from None
    return value


def _no_column(name: str, columns: list[str]) -> str:
    return f"there is no column {name!r}{nearest(name, columns)} (columns: {listed(map(repr, columns))})"
