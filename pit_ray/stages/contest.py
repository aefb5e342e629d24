"""Stage `evaluate` of every method but PIT, and `pit-ray evaluate`: any improvers on the same drafts under the same
judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pit_ray.data.parquet import write_table
from pit_ray.data.randomness import derive_seed
from pit_ray.data.tasks import find_questions
from pit_ray.evaluate.comparisons import Comparison, compare
from pit_ray.evaluate.contests import scores_table
from pit_ray.evaluate.evaluation_folder import write_summary
from pit_ray.evaluate.systems import Origin, System, health, picked
from pit_ray.improve import choose_margin
from pit_ray.improvers.interface import Cost, Engines, Improver, Round, improve
from pit_ray.records import Ragged
from pit_ray.run_folder import write_json
from pit_ray.stages.context import RunContext
from pit_ray.stages.improvers import feedback_improver, improver_named
from pit_ray.stages.judged import JudgedSplit, RunEngines


@dataclass(frozen=True)
class Contestant:
    """Something that is compared: what a stage's model answers, or what an improver makes of that."""

    name: str
    drafts: str
    """The stage whose model answers first."""
    improver: str | None = None
    """The improver of that name on these drafts."""
    by: str | None = None
    """Of an improver by its own feedback: the stage whose model it is. None: the run's own."""
    votes: int = 1
    """Answers of which the most frequent final one is taken (self-consistency)."""


@dataclass(frozen=True)
class Played:
    """What became of a contestant."""

    systems: dict[str, System]
    rounds: list[Round] | None = None
    kept: np.ndarray | None = None


def run(context: RunContext, contestants: Sequence[Contestant]) -> None:
    """The evaluation of a run: of its held-out prompts, and of a task's questions of unseen difficulty."""
    context.tracker.begin("evaluate", 0)
    engines, config = RunEngines(context), context.config.evaluation
    splits = ["held_out"]
    if find_questions(context.config.data.source) is not None and len(context.questions("unseen")):
        splits.append("unseen")
    for split in splits:
        folder = context.folder.path / "evaluation" / ("" if split == "held_out" else split)
        evaluate(
            context, JudgedSplit(context, split, engines), contestants, config.iterations, config.temperature, folder
        )


def evaluate(
    context: RunContext, split: JudgedSplit, contestants: Sequence[Contestant], iterations: int, temperature: float,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Lets the contestants answer, judges, compares, and writes what came of it to `folder`: summary.json,
    outcomes.parquet, answers.parquet, samples.json. Drafts are sampled at `evaluation.temperature`, feedback and
    revisions at `temperature`. Returns the summary."""
    margin = None
    if any(c.improver == "pit" for c in contestants):
        margin = chosen_margin(context, split.engines, iterations, temperature)
    answers: dict[str, System] = {}
    named = {c.drafts: c.name for c in reversed(contestants) if c.improver is None and c.votes == 1}
    played = {c.name: play(context, split, c, answers, iterations, temperature, margin, named) for c in contestants}
    systems = split.judged({name: s for each in played.values() for name, s in each.systems.items()})
    comparisons = compared(context, contestants, systems, iterations, named)
    summary = {
        "run": context.folder.path.name,
        "name": folder.name,
        "method": context.config.method,
        "world": context.config.data.source.removeprefix("world:")
        if "gold" in next(iter(systems.values())).scores
        else None,
        "task": context.config.data.source if find_questions(context.config.data.source) is not None else None,
        "seed": context.config.seed,
        "split": split.split,
        "temperature": temperature,
        "iterations": iterations,
        "margin": margin,
        "systems": {name: s.origin.model_dump(mode="json") for name, s in systems.items() if s.origin},
        "comparisons": [c.model_dump(mode="json") for c in comparisons],
        "health": {n: health(s).model_dump(mode="json") for n, s in systems.items() if "reward" in s.scores},
        "means": {n: {judge: float(s.mean()) for judge, s in system.scores.items()} for n, system in systems.items()},
        "feedback": feedback_quality(context, split, contestants, played),
        "levels": split.by_level(systems),
        "seconds": {},
    }
    write_table(scores_table(split.questions.uid, systems), folder / "outcomes.parquet")
    write_table(answers_table(split, systems), folder / "answers.parquet")
    write_json(folder / "samples.json", samples(split, contestants, played))
    write_summary(folder, summary)
    return summary


def play(
    context: RunContext, split: JudgedSplit, contestant: Contestant, answers: dict[str, System], iterations: int,
    temperature: float, margin: float | None, named: Mapping[str, str],
) -> Played:  # fmt: skip
    """A contestant's systems. `answers` keeps what each stage's model has answered, so that all improve the same;
    `named` says which system these answers are."""
    stage, name = contestant.drafts, contestant.name
    if stage not in answers:
        answers[stage] = split.answers(stage)
    drafts = answers[stage]
    if contestant.votes > 1:
        return Played({name: voted(split, stage, drafts, contestant.votes)})
    if contestant.improver is None:
        return Played({name: drafts})
    by = contestant.by
    improver: Improver = (
        improver_named(context, split.engines, contestant.improver, margin)
        if by is None
        else feedback_improver(context, split.engines, contestant.improver, by)
    )
    context.tracker.note(f"evaluate: {name} revises {stage}'s answers to {len(split.prompts)} {split.split} prompts")
    # PIT's own evaluation draws by the stage whose model revises: the same revisions here.
    source = {"pit": "ppo_improver", "sft": "sft_improver"}.get(improver.name, name)
    request = context.request("evaluate", source, split.split, temperature=temperature)
    rounds = improve(improver, split.prompts, drafts.responses, iterations, request)
    systems, kept = {}, np.zeros(len(split.prompts))
    for k in range(1, iterations + 1):
        done = rounds[: k + 1]
        kept = improver.kept(done)
        for rule, which in ((False, np.full(len(kept), k)), (True, kept)):
            origin = origin_of(improver.name, named[stage], drafts.responses, done, rule)
            systems[system_of(contestant, k, rule)] = after(done, which, drafts, origin)
    return Played(systems, rounds, kept)


def after(rounds: Sequence[Round], which: np.ndarray, drafts: System, origin: Origin) -> System:
    """What stands after some rounds: of row i, the response of rounds[which[i]]."""
    assert drafts.finished is not None
    each = [System(r.responses, drafts.finished if k == 0 else r.finished) for k, r in enumerate(rounds)]
    return replace(picked(each, which, drafts.responses), origin=origin)


def origin_of(improver: str, drafts_name: str, drafts: Ragged, rounds: Sequence[Round], rule: bool) -> Origin:
    """What all the rounds took, the drafts included."""
    spent: Cost = rounds[0].cost
    for r in rounds[1:]:
        spent = spent + r.cost
    return Origin(
        improver=improver,
        drafts=drafts_name,
        iteration=len(rounds) - 1,
        stopping_rule=rule,
        calls=1 + float(spent.calls.mean()),
        tokens=float(drafts.lengths.mean() + spent.tokens.mean()),
        scorer_calls=float(spent.scorer_calls.mean()),
        scorer_tokens=float(spent.scorer_tokens.mean()),
        unreadable=sum(float(r.unread.mean()) for r in rounds if r.unread is not None),
    )


def voted(split: JudgedSplit, stage: str, first: System, votes: int) -> System:
    """Of so many answers at temperature 1, one with the final answer that most of them give."""
    task = find_questions(split.context.config.data.source)
    assert task is not None
    samples = [split.answers(stage, "vote", str(k), temperature=1.0) for k in range(votes)]
    said = [[task.answer(text) for text in split.texts(sample.responses)] for sample in samples]
    which = []
    for each in zip(*said, strict=True):
        counts = Counter(answer for answer in each if answer is not None)
        which.append(each.index(counts.most_common(1)[0][0]) if counts else 0)
    tokens = sum(float(sample.responses.lengths.mean()) for sample in samples)
    origin = Origin(improver="policy", calls=votes, tokens=tokens)
    return replace(picked(samples, np.array(which), None), origin=origin)


def chosen_margin(context: RunContext, engines: Engines, iterations: int, temperature: float) -> float:
    """The margin of PIT's stopping rule with the best mean R_P on validation prompts."""
    split = JudgedSplit(context, "validation", engines)
    drafts = split.answers("ppo_policy").responses
    request = context.request("evaluate", "ppo_improver", "validation", temperature=temperature)
    rounds = improve(improver_named(context, engines, "pit"), split.prompts, drafts, iterations, request)
    return choose_margin([r.score for r in rounds[1:]], [split.rewards(r.responses) for r in rounds])


def compared(
    context: RunContext,
    contestants: Sequence[Contestant],
    systems: Mapping[str, System],
    iterations: int,
    named: Mapping[str, str],
) -> list[Comparison]:
    """Every contestant against the first; every improver against its own drafts and, round by round, against every
    other improver of the same drafts, and so what their own rules keep."""
    first, found = contestants[0].name, []
    pairs: dict[tuple[str, int, bool, str, str], None] = {}
    for c in contestants[1:]:
        if c.improver is None:
            pairs[f"{c.name}_vs_{first}", 0, False, c.name, first] = None
            continue
        for rule, k in ((rule, k) for rule in (False, True) for k in range(1, iterations + 1)):
            ours = system_of(c, k, rule)
            for theirs in dict.fromkeys((first, named.get(c.drafts, first))):
                pairs[f"{c.name}_vs_{theirs}", k, rule, ours, theirs] = None
            for other in contestants:
                if (
                    other.improver is not None
                    and other.drafts == c.drafts
                    and contestants.index(other) > contestants.index(c)
                ):
                    pairs[f"{c.name}_vs_{other.name}", k, rule, ours, system_of(other, k, rule)] = None
    for name, k, rule, ours, theirs in pairs:
        drawn = derive_seed(context.config.seed, "bootstrap", name, k, int(rule))
        for judge in sorted(systems[ours].scores):
            scores = systems[ours].scores[judge], systems[theirs].scores[judge]
            found.append(compare(name, judge, k, rule, *scores, context.config.evaluation.bootstrap, drawn))
    return found


def system_of(contestant: Contestant, k: int, rule: bool) -> str:
    """The name of an improver as a system after `k` rounds, or what its own rule keeps of so many."""
    return f"{contestant.name}_kept_{k}" if rule else f"{contestant.name}_{k}"


def feedback_quality(
    context: RunContext, split: JudgedSplit, contestants: Sequence[Contestant], played: Mapping[str, Played]
) -> dict[str, dict[str, float]]:
    """Of each improver that gives feedback: how much of its first feedback can be read, says rightly whether the draft
    is right, and names the verifier's earliest fault."""
    verifier, found = context.verifier, {}
    if verifier is None:
        return {}
    for c in contestants:
        rounds = played[c.name].rounds
        if rounds is None or rounds[0].feedback is None:
            continue
        readable, verdict, place = [], [], []
        said = zip(split.asked, split.texts(rounds[0].responses), split.texts(rounds[0].feedback), strict=True)
        for asked, response, feedback in said:
            own, truth = verifier.read_feedback(feedback, response), verifier.review(asked, response)
            readable.append(own is not None)
            verdict.append(own is not None and own.correct == truth.correct)
            same = own is not None and [f.segment for f in own.faults[:1]] == [f.segment for f in truth.faults[:1]]
            place.append(same)
        found[c.name] = {
            "readable": float(np.mean(readable)),
            "right_verdict": float(np.mean(verdict)),
            "right_place": float(np.mean(place)),
        }
    return found


def answers_table(split: JudgedSplit, systems: Mapping[str, System]) -> pa.Table:
    """uid, system, prompt, response: every answer as text."""
    columns: dict[str, list] = {"uid": [], "system": [], "prompt": [], "response": []}
    for name, system in systems.items():
        columns["uid"].extend(split.questions.uid.tolist())
        columns["system"].extend([name] * len(split.asked))
        columns["prompt"].extend(split.asked)
        columns["response"].extend(split.texts(system.responses))
    return pa.table(columns)


def samples(split: JudgedSplit, contestants: Sequence[Contestant], played: Mapping[str, Played]) -> list[dict]:
    """Before/after samples for people, of the first kind of improver that there is, and of its last model."""
    improving = [c for c in contestants if played[c.name].rounds]
    if not improving:
        return []
    c = [other for other in improving if other.improver == improving[0].improver][-1]
    rounds, kept = played[c.name].rounds, played[c.name].kept
    assert rounds is not None and kept is not None
    text = split.context.renderer.text
    found = []
    for i in np.linspace(0, len(kept) - 1, min(split.context.config.evaluation.examples, len(kept))).astype(int):
        golds = split.golds(int(i), [r.responses[int(i)] for r in rounds])
        feedback = [text(r.feedback[int(i)]) for r in rounds if r.feedback is not None] or None
        found.append({
            "prompt": split.asked[i], "draft": text(rounds[0].responses[int(i)]),
            "revisions": [text(r.responses[int(i)]) for r in rounds[1:]],
            "gaps": [None if np.isnan(r.score[i]) else float(r.score[i]) for r in rounds[1:]],
            "golds": golds, "kept": int(kept[i]), "feedback": feedback,
            "improver": c.name, "drafts": c.drafts,
        })  # fmt: skip
    return found
