"""The one number of a report that says whether a run worked, in the words of its method."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pit_ray.evaluate.comparisons import Comparison
from pit_ray.evaluate.report_files import Summary


@dataclass(frozen=True)
class Wanted:
    """Which comparison it is, and what the page says of it. {n} is the number in its name, {k} how often ours
    revised."""

    name: str
    """A pattern; with a number in it, the last one counts."""
    judges: tuple[str, ...]
    """The first that there is."""
    ours: str
    theirs: str
    better: str
    worse: str
    iterations: int | None = None
    """None: the last."""


BY_SCORE = ("gold", "reward")
WANTED = {
    "pit": Wanted(
        "improver_vs_policy", BY_SCORE, "the improver's first revision", "the policy's own response",
        "the improver improves", "the improver makes responses worse", iterations=1,
    ),
    "self_refine": Wanted(
        "self_refine_vs_policy", BY_SCORE, "what one round of Self-Refine leaves", "the policy's own response",
        "Self-Refine improves", "Self-Refine makes responses worse", iterations=1,
    ),
    "distill": Wanted(
        r"sft_distilled_(\d+)_vs_policy", BY_SCORE, "the policy of distillation round {n}",
        "the policy before distillation", "distillation improves the policy", "distillation makes the policy worse",
    ),
    "self_evolution": Wanted(
        r"sft_round_(\d+)_vs_sft_qa", ("verifier", *BY_SCORE), "the model of SELF's round {n}",
        "the model that learned from labels alone", "SELF improves the model", "SELF makes the model worse",
    ),
    "tripost": Wanted(
        r"sft_tripost_(\d+)_corrected_vs_sft_rationale", ("verifier",),
        "the model of TriPosT's iteration {n} with up to {k} corrections of its own",
        "the model that learned from gold rationales alone", "TriPosT with self-correction answers better",
        "TriPosT with self-correction answers worse",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Headline:
    """A comparison with the words for it."""

    comparison: Comparison
    ours: str
    theirs: str
    better: str
    worse: str
    accuracies: tuple[float, float] | None
    """Of ours and theirs, by the verifier; None by another judge."""


def headline(method: str, summary: Summary) -> Headline | None:
    """What the method is for, against what it began with; None where that was not compared."""
    wanted = WANTED.get(method)
    if wanted is None:
        return None
    for judge in wanted.judges:
        found: list[tuple[int, int, Comparison]] = []
        for c in summary.comparisons:
            match = re.fullmatch(wanted.name, c.name)
            if match and c.judge == judge and not c.stopping_rule and wanted.iterations in (None, c.iterations):
                found.append((int(match[1]) if match.groups() else 0, c.iterations, c))
        if found:
            n, k, c = max(found, key=lambda each: each[:2])
            ours = wanted.ours.format(n=n, k=k)
            return Headline(c, ours, wanted.theirs, wanted.better, wanted.worse, _accuracies(c, summary))
    return None


def _accuracies(c: Comparison, summary: Summary) -> tuple[float, float] | None:
    ours, _, theirs = c.name.partition("_vs_")
    names = (f"{ours}_{c.iterations}" if c.iterations else ours), theirs
    if c.judge != "verifier" or not all("verifier" in summary.means.get(name, {}) for name in names):
        return None
    one, other = (summary.means[name]["verifier"] for name in names)
    return one, other
