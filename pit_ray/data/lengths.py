"""The length policies of the configuration, applied to tokens: error, drop or truncate, always counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pit_ray.config.tree import Config, FieldLength, Lengths
from pit_ray.errors import DataError
from pit_ray.records import Pairs, Ragged

SEEN_ROUNDS = 2
"""So many of the latest drafts, with their feedback, have room in what Self-Refine's model sees."""


def longest_sequence(config: Config) -> int:
    """Tokens of the longest sequence that can occur: x ‖ draft ‖ bridge ‖ y, or where the method gives feedback
    x ‖ draft ‖ bridge ‖ feedback ‖ bridge ‖ y, of Self-Refine with SEEN_ROUNDS drafts."""
    lengths, new = config.data.lengths, config.sampling.max_new_tokens
    x, draft, y = lengths.prompt.max_tokens, max(lengths.draft.max_tokens, new), max(lengths.response.max_tokens, new)
    if config.method in ("pit", "distill"):
        return x + draft + bridge_length(config.model.improve_instruction) + y
    rounds, shown = 1, 0
    if config.method == "self_refine":
        rounds, shown = SEEN_ROUNDS, config.self_refine.examples * (x + draft + new + y)
    bridges = (
        bridge_length(config.model.feedback_instruction) + bridge_length(config.model.refine_instruction) + 2 * shown
    )
    return x + rounds * (draft + new + bridges) + y


def bridge_length(instruction: str) -> int:
    """Tokens that an instruction and the template around it may take."""
    return 16 + 2 * len(instruction.split())


@dataclass(frozen=True)
class LengthReport:
    """What the length policies did to a table of pairs. All numbers are rows."""

    rows: int
    """Rows before."""
    left: int
    """Rows after; a row that two fields drop is gone once."""
    counts: dict[str, dict[str, int]]
    """prompt and response -> kept (as it was), dropped, truncated; each field's three add up to `rows`."""

    def __str__(self) -> str:
        fields = (
            f"{name} {', '.join(f'{number} {what}' for what, number in counts.items())}"
            for name, counts in self.counts.items()
        )
        return f"{self.left} of {self.rows} pairs left; {'; '.join(fields)}"


def apply_lengths(pairs: Pairs, lengths: Lengths) -> tuple[Pairs, LengthReport]:
    """Fit prompts to `lengths.prompt` and both responses to `lengths.response`, and as drafts to `lengths.draft`;
    prompts lose their beginning, drafts and responses their end. A draft that is cut stays whole as a response.

    A row counts once per field, also when both its responses are too long. A row whose responses become equal by
    truncation says nothing any more and is dropped. DataError where a policy is `error` (it names a row) or
    no row is left.
    """
    prompt, long_prompt = _fit("prompt", pairs.prompt, lengths.prompt, pairs.uid)
    chosen, long_chosen = _fit("response", pairs.chosen, lengths.response, pairs.uid)
    rejected, long_rejected = _fit("response", pairs.rejected, lengths.response, pairs.uid)
    long_response = long_chosen | long_rejected
    long_draft = (
        _fit("draft", chosen, lengths.draft, pairs.uid)[1] | _fit("draft", rejected, lengths.draft, pairs.uid)[1]
    )

    drop_draft = long_draft if lengths.draft.policy == "drop" else np.zeros_like(long_draft)
    drop_prompt = long_prompt if lengths.prompt.policy == "drop" else np.zeros_like(long_prompt)
    drop_response = long_response.copy()
    if lengths.response.policy == "truncate":
        drop_response = np.array(
            [bool(cut) and np.array_equal(chosen[i], rejected[i]) for i, cut in enumerate(long_response)], dtype=bool
        )
    kept = np.flatnonzero(~(drop_prompt | drop_response | drop_draft))
    if len(pairs) and not len(kept):
        raise DataError(
            f"no pair is left of {len(pairs)}: {int(drop_prompt.sum())} have a prompt longer than "
            f"data.lengths.prompt.max_tokens = {lengths.prompt.max_tokens}, {int(drop_response.sum())} a response that "
            f"does not fit data.lengths.response.max_tokens = {lengths.response.max_tokens}, {int(drop_draft.sum())} "
            f"one that does not fit data.lengths.draft.max_tokens = {lengths.draft.max_tokens}; the shortest prompt "
            f"has {int(pairs.prompt.lengths.min())} tokens, the shortest response "
            f"{int(min(pairs.chosen.lengths.min(), pairs.rejected.lengths.min()))}; raise these limits"
        )
    limit = lengths.draft.max_tokens if lengths.draft.policy == "truncate" else None
    fitted = Pairs(uid=pairs.uid, prompt=prompt, chosen=chosen, rejected=rejected, draft_limit=limit)
    counts = {
        "prompt": _count(long_prompt, drop_prompt),
        "response": _count(long_response, drop_response),
        "draft": _count(long_draft, drop_draft),
    }
    return (fitted if len(kept) == len(pairs) else fitted.take(kept)), LengthReport(len(pairs), len(kept), counts)


def fit_drafts(drafts: Ragged, limit: FieldLength) -> tuple[Ragged, np.ndarray, int]:
    """Fit drafts to `limit` (data.lengths.draft); drafts lose their end.

    Returns the fitted drafts, the rows of `drafts` that they are ((kept,) int64, ascending), and how many rows were
    dropped or truncated. DataError where the policy is `error` or no draft is left.
    """
    fitted, too_long = _fit("draft", drafts, limit)
    kept = np.flatnonzero(~too_long) if limit.policy == "drop" else np.arange(len(drafts), dtype=np.int64)
    if len(drafts) and not len(kept):
        raise DataError(
            f"no draft is left: all {len(drafts)} are longer than data.lengths.draft.max_tokens = {limit.max_tokens}; "
            f"the shortest has {int(drafts.lengths.min())} tokens; raise it, or set data.lengths.draft.policy=truncate"
        )
    return (fitted if len(kept) == len(drafts) else fitted.take(kept)), kept, int(too_long.sum())


def _fit(
    field: Literal["prompt", "draft", "response"], values: Ragged, limit: FieldLength, uid: np.ndarray | None = None
) -> tuple[Ragged, np.ndarray]:
    """The rows, cut if the policy says so, and which of them were too long ((n,) bool)."""
    too_long = values.lengths > limit.max_tokens
    if not too_long.any():
        return values, too_long
    if limit.policy == "error":
        row = int(np.flatnonzero(too_long)[0])
        name = f"row {row}" if uid is None else f"uid {int(uid[row])}"
        raise DataError(
            f"the {field} of {name} has {int(values.lengths[row])} tokens, more than "
            f"data.lengths.{field}.max_tokens = {limit.max_tokens}; raise it, or set data.lengths.{field}.policy to "
            "drop or truncate"
        )
    if limit.policy == "truncate":
        part = slice(-limit.max_tokens, None) if field == "prompt" else slice(limit.max_tokens)
        values = Ragged.of((row[part] for row in values.rows()), dtype=values.values.dtype.type)
    return values, too_long


def _count(too_long: np.ndarray, dropped: np.ndarray) -> dict[str, int]:
    return {
        "kept": int((~too_long).sum()),
        "dropped": int(dropped.sum()),
        "truncated": int((too_long & ~dropped).sum()),
    }
