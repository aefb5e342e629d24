"""Stages that make TriPosT's examples (arXiv 2310.13522): the model's own trajectories, edited with a verifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pit_ray.data.randomness import generator
from pit_ray.data.splits import draw_order
from pit_ray.data.tasks import find_questions
from pit_ray.data.tasks.attempts import read_attempt
from pit_ray.data.verifiers import Review, Verifier
from pit_ray.errors import ConfigError, DataError
from pit_ray.improve import without_end
from pit_ray.improvers.interface import Round, improve
from pit_ray.records import Questions, Ragged
from pit_ray.stages.annotation import contradicts
from pit_ray.stages.context import RunContext
from pit_ray.stages.examples import ExampleRows
from pit_ray.stages.improvers import feedback_improver
from pit_ray.stages.judged import RunEngines, prompts_of
from pit_ray.stages.self_training import finish

REASONS = ("edited", "own", "unparsable", "the wrong segment persists", "no progress", "never correct")
"""What becomes of a trajectory: kept after a substitution, kept as the model wrote it, or rejected, and why."""


@dataclass(frozen=True)
class EditedTurn:
    """An attempt and a right feedback on it, as texts; and the update where the attempt was wrong."""

    attempt: str
    feedback: str
    update: str | None


@dataclass(frozen=True)
class Edited:
    """An edited trajectory; no turns where it was rejected."""

    turns: tuple[EditedTurn, ...]
    fate: str
    """One of REASONS."""


def edit(verifier: Verifier, prompt: str, attempts: Sequence[str], feedback: Sequence[str], updates: int) -> Edited:
    """Walks a trajectory (attempts[k + 1] was written after feedback[k] on attempts[k]). Where a feedback differs from
    the verifier's, this one is put in its place, and the attempt is rewritten from the wrong step on; what the model
    wrote after that is dropped (TriPosT, arXiv 2310.13522, stage 1). At most `updates` updates."""
    if not read_attempt(attempts[0]).steps:
        return Edited((), "unparsable")
    turns: list[EditedTurn] = []
    attempt, edited = attempts[0], False
    own: int | None = 0
    review = verifier.review(prompt, attempt)
    while not review.correct:
        if len(turns) == updates:
            return Edited((), "never correct")
        if own is not None and own + 1 < len(attempts) and agrees(verifier, feedback[own], attempt, review):
            update = attempts[own + 1]
            own += 1
        else:
            update, own, edited = verifier.mended(prompt, attempt, review), None, True
        after = verifier.review(prompt, update)
        if update == attempt:
            return Edited((), "no progress")
        if persists(review, after):
            return Edited((), "the wrong segment persists")
        turns.append(EditedTurn(attempt, verifier.feedback(attempt, review), update))
        attempt, review = update, after
    said = verifier.feedback(attempt, review)
    edited = edited or own is None or own >= len(feedback) or feedback[own] != said
    return Edited((*turns, EditedTurn(attempt, said, None)), "edited" if edited else "own")


def agrees(verifier: Verifier, said: str, attempt: str, review: Review) -> bool:
    """Whether a feedback on an attempt finds the verifier's earliest fault, or none as it does: the step and the
    segment."""
    own = verifier.read_feedback(said, attempt)
    if own is None:
        return False
    return [(f.step, f.segment) for f in own.faults[:1]] == [(f.step, f.segment) for f in review.faults[:1]]


def persists(before: Review, after: Review) -> bool:
    """Whether the fault that was found is still there."""
    return bool(after.faults) and (before.faults[0].step, before.faults[0].segment) == (
        after.faults[0].step, after.faults[0].segment,
    )  # fmt: skip


def edit_trajectories(context: RunContext, number: int, model: str) -> None:
    """Stage `edit_N`: trajectories of the model of a stage, edited, cut into turns and balanced; with those of the
    iterations before where they are replayed.

    DataError when none of them yields a turn that improves.
    """
    section, stage = context.config.tripost, f"edit_{number}"
    verifier = task_verifier(context)
    questions = training_questions(context)
    rows = draw_order(len(questions), (number - 1) * section.questions, section.questions, context.config.seed, "edit")
    questions, engines, found = questions.take(rows), RunEngines(context), list[Edited]()
    prompts = prompts_of(questions, np.arange(len(questions)))
    improver = feedback_improver(context, engines, "tripost", model)
    for k in range(section.attempts):
        request = context.request(stage, k, temperature=section.temperature)
        attempts = without_end(engines.sampler(context.model(model)).generate(prompts, request).result())
        rounds = improve(improver, prompts, attempts, section.updates, request)
        found += [
            edit(verifier, context.renderer.text(x), *trajectory(context, rounds, i), section.updates)
            for i, x in enumerate(questions.prompt.rows())
        ]
    questions = Questions.concatenate([questions] * section.attempts)
    refuse_contradictions(context, questions, found)
    fates = Counter(each.fate for each in found)
    made = turns_of(context, questions, found)
    counts = {"trajectories": len(found), **{reason: fates[reason] for reason in REASONS}}
    counts |= {kind: len(part) for kind, part in made.items()}
    if not len(made["improving"]):
        raise DataError(
            f"stage {stage}: no trajectory of {len(found)} yields a turn that improves ({dict(fates)}); the model may "
            "already be right everywhere, or write nothing that can be read: look at tripost.rationale"
        )
    replayed = f"edit_{number - 1}" if section.replay and number > 1 else None
    finish(context, stage, balanced(context, made, stage), counts, replayed)


def task_verifier(context: RunContext) -> Verifier:
    if context.verifier is None or find_questions(context.config.data.source) is None:
        raise ConfigError(
            f"data.source: '{context.config.data.source}' has no verifier that finds wrong steps; method tripost needs "
            "one, for instance data.source=task:word_sorting"
        )
    return context.verifier


def training_questions(context: RunContext) -> Questions:
    """Those that the first model was not tuned on: it knows the others by heart, and makes few mistakes there."""
    return context.questions("rl")


def trajectory(context: RunContext, rounds: Sequence[Round], row: int) -> tuple[list[str], list[str]]:
    """What the model wrote about one question: attempts, and feedback on each."""
    attempts, feedback = [], []
    for number, r in enumerate(rounds):
        if number and not r.revised[row]:
            break
        assert r.feedback is not None
        attempts.append(context.renderer.text(r.responses[row]))
        feedback.append(context.renderer.text(r.feedback[row]))
    return attempts, feedback


def refuse_contradictions(context: RunContext, questions: Questions, found: Sequence[Edited]) -> None:
    """DataError where what the verifier finds right is not what the label says."""
    for i, each in enumerate(found):
        label = context.renderer.text(questions.answer[i])
        if each.turns and (why := contradicts(context, each.turns[-1].attempt, label)):
            question = context.renderer.user_text(questions.prompt[i])
            raise DataError(f"the verifier contradicts the label of {question!r}: {why}")


def turns_of(context: RunContext, questions: Questions, found: Sequence[Edited]) -> dict[str, list[ExampleRows]]:
    """Single turns, by what they do: `improving`, `stating` that all is right, `rationale` (of the questions whose
    trajectories were kept); without repeats (stage 2)."""
    section, renderer = context.config.tripost, context.renderer
    made: dict[str, dict[tuple, ExampleRows]] = {"improving": {}, "stating": {}, "rationale": {}}

    def ids(text: str) -> np.ndarray:
        return np.array(renderer.response_ids(text), dtype=np.int32)

    for i, each in enumerate(found):
        uid, x = int(questions.uid[i]), questions.prompt[i]
        for turn in each.turns:
            rows, y, said = ExampleRows(context), ids(turn.attempt), ids(turn.feedback)
            rows.answer(uid, x, y, 1.0 if turn.update is None else section.attempt_weight)
            rows.feedback(uid, x, y, said, section.feedback_weight)
            if turn.update is not None:
                rows.refinement(uid, x, y, said, ids(turn.update), section.feedback_weight)
            kind = "stating" if turn.update is None else "improving"
            made[kind].setdefault((uid, turn.attempt, turn.update), rows)
        if each.turns:
            rows = ExampleRows(context)
            rows.answer(uid, x, questions.answer[i])
            made["rationale"].setdefault((uid,), rows)
    return {kind: list(part.values()) for kind, part in made.items()}


def balanced(context: RunContext, made: dict[str, list[ExampleRows]], stage: str) -> ExampleRows:
    """`tripost.improving` turns that improve for each one that states and each rationale, as many as there are enough
    of."""
    ratio = {"improving": context.config.tripost.improving, "stating": 1.0, "rationale": 1.0}
    unit = min(len(part) / ratio[kind] for kind, part in made.items() if part)
    rows = ExampleRows(context)
    for kind, part in made.items():
        order = generator(context.config.seed, stage, kind).permutation(len(part))
        for i in order[: round(unit * ratio[kind])]:
            rows.extend(part[int(i)])
    return rows


def correct_samples(context: RunContext, model: str) -> None:
    """Stage `lmsi`: answers of the model of a stage, kept where the final answer is right (LMSI as TriPosT's baseline:
    5 samples at T = 1.2)."""
    section, questions = context.config.tripost, training_questions(context)
    prompts, rows, right = prompts_of(questions, np.arange(len(questions))), ExampleRows(context), 0
    pool = RunEngines(context).sampler(context.model(model))
    for k in range(section.lmsi_samples):
        request = context.request("lmsi", k, temperature=section.lmsi_temperature)
        answers: Ragged = without_end(pool.generate(prompts, request).result())
        for i, y in enumerate(answers.rows()):
            if contradicts(context, context.renderer.text(y), context.renderer.text(questions.answer[i])) is None:
                rows.answer(int(questions.uid[i]), questions.prompt[i], y)
                right += 1
    finish(context, "lmsi", rows, {"samples": section.lmsi_samples * len(questions), "right": right})
