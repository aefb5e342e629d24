"""The tables of a report about what a run's systems answered, what its stages made, and how good their feedback is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from pit_ray.evaluate.names import NUMBER, contestant_name, rounds_of, stage_name, system_name
from pit_ray.evaluate.report_files import Counts, Summary
from pit_ray.evaluate.significance import wilson

Parts = Mapping[str, Summary]
"""held-out, and unseen where there is any."""

ABOUT = {
    "pit": "PIT trains an improver: a model that reads a prompt and a draft of a response, and writes a better one. It "
    "learns from preference data alone.",
    "self_refine": "Self-Refine improves by prompting: a model reads a draft, writes feedback on it, and writes the "
    "draft again by this feedback.",
    "self_evolution": "SELF teaches a model to give feedback on its own answers and to refine them, and lets it learn, "
    "round after round, from those refined answers in which it finds no fault itself.",
    "tripost": "TriPosT teaches a model to correct itself: it tries to mend its own answers, a verifier edits these "
    "trials where they go wrong, and the model learns from the edited ones.",
    "distill": "Distillation teaches a policy to write at once what PIT's improver would make of its responses: it "
    "learns from those revisions that the gap reward model likes best.",
}
"""What each method does."""


class Cell(NamedTuple):
    """A number, and its interval in words where it has one."""

    value: str
    interval: str = ""


class Answers(NamedTuple):
    """The systems, one a row."""

    columns: list[tuple[str, str]]
    """What each judge says, on which questions: held-out or unseen."""
    rows: list[tuple[str, str, list[Cell], list[str]]]
    """Name, rounds, a cell for each column, and what an answer took: calls, scorer calls, tokens."""


def answers(parts: Parts) -> Answers:
    """Every system's mean by every judge, with what one of its held-out answers took. What an improver's own rule
    keeps is left out where that is no other than without it."""
    own = parts["held-out"]
    judges = dict.fromkeys(judge for part in parts.values() for means in part.means.values() for judge in means)
    columns = [("right, %" if judge == "verifier" else f"mean {judge}", split) for judge in judges for split in parts]
    rows: dict[str, list[tuple[str, list[Cell], list[str]]]] = {}
    for name in dict.fromkeys(name for part in parts.values() for name in part.means):
        info = own.systems.get(name)
        cells = [_mean(part, name, judge) for judge in judges for part in parts.values()]
        took = (None, None, None) if info is None else (info.calls, info.scorer_calls, info.tokens)
        costs = ["–" if number is None else f"{number:.1f}" for number in took]
        of_name = rows.setdefault(system_name(name, info), [])
        if not (info and info.stopping_rule and (cells, costs) in [row[1:] for row in of_name]):
            of_name.append((rounds_of(info), cells, costs))
    return Answers(columns, [(name, *row) for name, of_name in rows.items() for row in of_name])


def _mean(part: Summary, name: str, judge: str) -> Cell:
    mean = part.means.get(name, {}).get(judge)
    if mean is None:
        return Cell("–")
    if judge != "verifier":
        return Cell(f"{mean:.2f}".replace("-", "−"))
    return share(mean, part.n)


def share(value: float, n: int | None) -> Cell:
    """A share of n in percent, with its 95 % interval by Wilson's score."""
    if not n:
        return Cell(f"{100 * value:.1f}")
    low, high = wilson(round(value * n), n)
    return Cell(f"{100 * value:.1f}", f"{100 * low:.1f} to {100 * high:.1f}")


class Levels(NamedTuple):
    """Accuracy by level of difficulty."""

    splits: list[tuple[str, int]]
    """Each with its number of levels."""
    columns: list[tuple[str, int]]
    """Each level with its number of questions."""
    rows: list[tuple[str, str, list[str]]]
    """Name, rounds, a number for each level, of direct answers and of the last round."""


def levels(parts: Parts) -> Levels | None:
    """None where the levels were not recorded."""
    columns = [(part, level) for part in parts.values() for level in sorted(part.levels, key=_natural)]
    if not columns:
        return None
    own = parts["held-out"]
    last = max((info.iteration for info in own.systems.values()), default=0)
    rows = []
    for name in dict.fromkeys(name for part, level in columns for name in part.levels[level].accuracy):
        info = own.systems.get(name)
        if info is not None and (info.stopping_rule or info.iteration not in (0, last)):
            continue
        found = [part.levels[level].accuracy.get(name) for part, level in columns]
        numbers = ["–" if accuracy is None else f"{100 * accuracy:.1f}" for accuracy in found]
        rows.append((system_name(name, info), rounds_of(info), numbers))
    splits = [(split, len(part.levels)) for split, part in parts.items() if part.levels]
    return Levels(splits, [(level, part.levels[level].n) for part, level in columns], rows)


def _natural(text: str) -> list[tuple[int, str]]:
    """So that 10 words come after 9."""
    return [(int(number or 0), word) for number, word in re.findall(r"(\d+)|(\D+)", text)]


class Kind(NamedTuple):
    """Stages that make the same kind of thing."""

    title: str
    unit: str
    """What their number counts."""
    words: Mapping[str, str]
    """What they count, in the order in which they do."""


ANNOTATED = {
    "right": "responses without a fault",
    "mended": "responses with a fault, put right",
    "rejected": "left out, since what was put right contradicts the label",
}
KINDS = {
    "labels": Kind("Labelled questions", "", {"labels": "questions with their labels"}),
    "all_labels": Kind("Labels of all questions that anything was learned of", "", {"labels": "questions"}),
    "rationales": Kind("Gold rationales", "", {"labels": "questions with a right answer, step by step"}),
    "all_rationales": Kind("Gold rationales of all training questions", "", {"labels": "questions"}),
    "teach": Kind("Feedback to learn from, by the world's verifier", "", ANNOTATED),
    "meta": Kind("Meta-skill corpus: the model's answers with feedback and refinements", "", ANNOTATED),
    "round": Kind(
        "The model's own answers to unlabelled questions, refined and sifted by itself", "round",
        {
            "questions": "questions answered", "kept": "refined answers kept to learn from",
            "unreadable": "refined answers whose feedback gives no score that can be read",
            "right_before": "right before refining", "right_refined": "right after refining",
            "right_kept": "right among those that were kept",
        },
    ),
    "mix": Kind("Examples of a round's SFT", "round", {"meta": "from the meta-skill corpus"}),
    "lmsi": Kind("LMSI, a baseline: sampled answers", "", {"samples": "answers", "right": "right ones, to learn from"}),
    "edit": Kind(
        "The model's own trajectories of attempts and feedback, edited by the verifier", "iteration",
        {
            "trajectories": "trajectories", "edited": "kept after an edit", "own": "kept as the model wrote them",
            "unparsable": "left out: no steps can be read",
            "the wrong segment persists": "left out: an update leaves the fault as it is",
            "no progress": "left out: an update changes nothing",
            "never correct": "left out: still wrong after the last update",
            "improving": "turns that mend an attempt", "stating": "turns that find all right",
            "rationale": "gold rationales beside them",
        },
    ),
    "improved": Kind(
        "The policy's responses, revised by PIT's improver", "round",
        {
            "drafts": "responses revised", "kept": "revisions with the largest gaps, kept to learn from",
            "mean_gap_kept": "mean gap of those kept", "gold_drafts": "mean gold of the responses",
            "gold_revisions": "mean gold of all revisions", "gold_kept": "mean gold of those kept",
        },
    ),
}  # fmt: skip


class Made(NamedTuple):
    """What the stages of one kind made."""

    title: str
    columns: list[str]
    """The stages; [""] where there is one without a number."""
    rows: list[tuple[str, list[str]]]
    """What was counted, and a number for each stage."""


def made(counts: Mapping[str, Counts]) -> list[Made]:
    """In the order of the run, with stages that come again and again side by side."""
    groups: dict[str, list[str]] = {}
    for stage in counts:
        number = NUMBER.fullmatch(stage)
        groups.setdefault(number[1] if number and number[1] in KINDS else stage, []).append(stage)
    found = []
    for name, stages in groups.items():
        kind = KINDS.get(name, Kind(stage_name(name), "", {}))
        columns = [f"{kind.unit} {stage.removeprefix(f'{name}_')}" if kind.unit else "" for stage in stages]
        keys = dict.fromkeys(key for stage in stages for key in counts[stage])
        rows = [(_counted(kind, key), [_number(key, counts[stage].get(key)) for stage in stages]) for key in keys]
        found.append(Made(kind.title, columns, rows))
    return found


def _counted(kind: Kind, key: str) -> str:
    round_ = re.fullmatch(r"round_(\d+)", key)
    return kind.words.get(key) or (f"answers kept in round {round_[1]}" if round_ else key.replace("_", " "))


def _number(key: str, value: int | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{100 * value:.1f} %" if key.startswith("right_") else f"{value:.2f}".replace("-", "−")


def feedback(parts: Parts) -> list[tuple[str, str, list[Cell]]]:
    """Improver, split, and how much of its first feedback is readable, right, and right about the place."""
    names = dict.fromkeys(name for part in parts.values() for name in part.feedback)
    return [
        (
            contestant_name(name),
            split,
            [share(value, part.n) for value in (found.readable, found.right_verdict, found.right_place)],
        )
        for name in names
        for split, part in parts.items()
        if (found := part.feedback.get(name))
    ]
