"""Stages that make examples for SELF (arXiv 2310.00533) and for a taught Self-Refine, by the models before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pit_ray.config.training import Supervised
from pit_ray.data.parquet import read_examples, write_examples
from pit_ray.data.randomness import derive_seed, generator
from pit_ray.data.splits import draw_order
from pit_ray.data.tasks import find_questions
from pit_ray.endpoint import EndpointClient
from pit_ray.errors import DataError, PitRayError
from pit_ray.improve import without_end
from pit_ray.improvers.interface import improve
from pit_ray.learn.supervised import lasting
from pit_ray.records import Examples, Pairs, Prompts, Questions, Ragged
from pit_ray.run_folder import COUNTS, write_json
from pit_ray.stages.annotation import Annotator, EndpointAnnotator, annotated, contradicts, verifier_annotator
from pit_ray.stages.context import RunContext
from pit_ray.stages.examples import EXAMPLES, ExampleRows
from pit_ray.stages.improvers import feedback_improver
from pit_ray.stages.judged import RunEngines, prompts_of
from pit_ray.tracking import read_metrics

TRIES = 4
"""Questions are made up at most so many times as often as they are wanted."""


def teach(context: RunContext) -> None:
    """Stage `teach`: the world's verifier reviews and mends as many of the data's responses as PIT trains on."""
    pairs = Pairs.concatenate([context.pairs(split) for split in ("sft", "reward", "rl")])
    pairs = pairs.take(np.arange(min(context.config.self_refine.taught_rows or len(pairs), len(pairs))))
    better = generator(context.config.seed, "teach").random(len(pairs)) < 0.5
    both = zip(better, pairs.chosen.rows(), pairs.rejected.rows(), strict=True)
    responses = Ragged.of(chosen if first else rejected for first, chosen, rejected in both)
    questions = Questions(pairs.uid, pairs.prompt, pairs.chosen)
    rows, counts = annotated(context, verifier_annotator(context), questions, responses, 0.0)
    finish(context, "teach", rows, counts)


def label_examples(context: RunContext, stage: str, questions: Questions) -> None:
    """Examples of answering questions with their labels."""
    rows = ExampleRows(context)
    for uid, x, y in zip(questions.uid, questions.prompt.rows(), questions.answer.rows(), strict=True):
        rows.answer(uid, x, y)
    finish(context, stage, rows, {"labels": len(rows)})


def as_many_steps(context: RunContext, section: Supervised, stages: Sequence[str], rows: int) -> Supervised:
    """An SFT section for so many examples, with as many optimizer steps as some stages took together."""
    steps = sum(record["stage"] in stages for record in read_metrics(context.folder.path))
    return lasting(section, steps, rows)


def labelled(context: RunContext) -> Questions:
    """All labelled questions that SELF learns from. DataError with fewer than two: it parts them."""
    questions = context.questions("sft")
    if len(questions) < 2:
        raise DataError(f"{context.config.data.source}: SELF needs two labelled questions at least; raise data.pairs")
    return questions.take(np.arange(min(context.config.self_evolution.labels or len(questions), len(questions))))


def parted(context: RunContext) -> tuple[Questions, Questions]:
    """The same: those whose labels are learned first, and those of the corpus."""
    questions = labelled(context)
    cut = min(max(round(len(questions) * context.config.self_evolution.meta_share), 1), len(questions) - 1)
    return questions.take(np.arange(cut, len(questions))), questions.take(np.arange(cut))


def meta_corpus(context: RunContext, answering: str) -> None:
    """Stage `meta`: (question, answer by the model of stage `answering`, feedback, refinement). That model has not seen
    these questions' labels: its faults are those that it will make."""
    section, (_, questions) = context.config.self_evolution, parted(context)
    request = context.request("meta", temperature=section.temperature)
    pool = RunEngines(context).sampler(context.model(answering))
    responses = without_end(pool.generate(prompts_of(questions, np.arange(len(questions))), request).result())
    rows, counts = annotated(context, meta_annotator(context), questions, responses, section.direct_weight)
    if section.self_instructed_from is not None:
        ask = np.array(context.renderer.prompt_ids([question_turn(context)]), dtype=np.int32)
        for uid, x in zip(questions.uid, questions.prompt.rows(), strict=True):
            asked = context.renderer.response_ids(plain_question(context, x))
            rows.answer(uid, ask, np.array(asked, dtype=np.int32))
    finish(context, "meta", rows, counts)


def meta_annotator(context: RunContext) -> Annotator:
    section, model = context.config.self_evolution, context.config.model
    if section.annotator == "verifier":
        return verifier_annotator(context)
    assert section.endpoint is not None
    client = EndpointClient(section.endpoint, context.folder.stage("meta") / "endpoint")
    enough = context.config.self_refine.enough
    return EndpointAnnotator(client, model.feedback_instruction, model.refine_instruction, enough)


def evolve(context: RunContext, number: int, model: str) -> None:
    """Stage `round_N`: the model of a stage answers unlabelled questions, gives itself feedback, refines, and keeps
    what its own feedback finds no fault in."""
    section, stage = context.config.self_evolution, f"round_{number}"
    made_up = section.self_instructed_from is not None and number >= section.self_instructed_from
    questions = self_instructed(context, number, model) if made_up else round_questions(context, number)
    engines, prompts = RunEngines(context), prompts_of(questions, np.arange(len(questions)))
    request = context.request(stage, temperature=section.temperature)
    answers = without_end(engines.sampler(context.model(model)).generate(prompts, request).result())
    improver = feedback_improver(context, engines, "self", model)
    first, last = improve(improver, prompts, answers, 1, request)
    assert first.unread is not None and last.stopped is not None
    sure = last.score == 0 if context.verifier is not None else last.stopped & ~np.isnan(last.score)
    kept = np.flatnonzero(sure if section.filter else ~np.isnan(last.score))
    rows = ExampleRows(context)
    for i in kept:
        rows.answer(int(questions.uid[i]), questions.prompt[int(i)], last.responses[int(i)], section.direct_weight)
    counts = {"questions": len(questions), "kept": len(kept), "unreadable": int(np.isnan(last.score).sum())}
    finish(context, stage, rows, counts | label_accuracy(context, questions, answers, last.responses, kept, made_up))


def with_meta(context: RunContext, number: int) -> None:
    """Stage `mix_N`: what was kept, of all rounds so far (restart from base) or of this one, with the meta-skill
    corpus."""
    first = 1 if context.config.self_evolution.start == "base" else number
    sources = ["meta", *(f"round_{n}" for n in range(first, number + 1))]
    parts = [read_examples(context.folder.stage(name) / EXAMPLES) for name in sources]
    stage = f"mix_{number}"
    write_examples(Examples.concatenate(parts), context.folder.stage(stage) / EXAMPLES)
    counts = {name: len(part) for name, part in zip(sources, parts, strict=True)}
    write_json(context.folder.stage(stage) / COUNTS, counts)


def round_questions(context: RunContext, number: int) -> Questions:
    """The unlabelled questions of a round, from the split `rl`; rounds go on where the one before ended."""
    pool, size = context.questions("rl"), context.config.self_evolution.questions
    return pool.take(draw_order(len(pool), (number - 1) * size, size, context.config.seed, "rounds"))


def self_instructed(context: RunContext, number: int, model: str) -> Questions:
    """Questions that the model of a stage makes up: new ones, of the task or world, none that is tested on.

    DataError when it makes up none.
    """
    section, renderer = context.config.self_evolution, context.renderer
    ask = np.array(renderer.prompt_ids([question_turn(context)]), dtype=np.int32)
    known = {
        plain_question(context, x) for s in ("held_out", "validation", *_unseen(context)) for x in _prompts(context, s)
    }
    found: dict[str, None] = {}
    pool = RunEngines(context).sampler(context.model(model))
    for attempt in range(TRIES):
        n = section.questions
        uid = np.arange(attempt * n, (attempt + 1) * n)
        empty = Ragged.of([[]] * n)
        prompts = Prompts(uid, Ragged.of([ask] * n), empty, np.zeros(n, dtype=np.int8))
        request = context.request(f"round_{number}", "questions", attempt, temperature=section.temperature)
        for row in without_end(pool.generate(prompts, request).result()).rows():
            question = renderer.text(row)
            if question not in known and question not in found and is_question(context, question):
                found[question] = None
        if len(found) >= n:
            break
    context.tracker.note(f"round_{number}: {len(found)} new questions made up")
    if not found:
        raise DataError(f"stage round_{number}: {model} made up no new question of {context.config.data.source}")
    asked = list(found)[: section.questions]
    ids = [renderer.prompt_ids([{"role": "user", "content": question}]) for question in asked]
    # Apart from the uids of given questions, and from those of other rounds.
    first = derive_seed(0, "self_instructed", number) >> 16
    return Questions(first + np.arange(len(asked)), Ragged.of(ids), Ragged.of([[]] * len(asked)))


def is_question(context: RunContext, text: str) -> bool:
    """Whether a text asks for something that the verifier knows how to judge; without one, whether it says anything."""
    if context.verifier is None:
        return bool(text.strip())
    try:
        context.verifier.review(text, "")
    except (ValueError, PitRayError):
        return False
    return True


def question_turn(context: RunContext) -> dict[str, str]:
    return {"role": "user", "content": context.config.self_evolution.question_instruction}


def plain_question(context: RunContext, prompt: np.ndarray) -> str:
    """The user's words of a rendered prompt with one turn."""
    return context.renderer.user_text(prompt)


def _unseen(context: RunContext) -> tuple[str, ...]:
    return ("unseen",) if find_questions(context.config.data.source) is not None else ()


def _prompts(context: RunContext, split: str) -> list[np.ndarray]:
    return context.questions(split).prompt.rows()


def label_accuracy(
    context: RunContext, questions: Questions, before: Ragged, after: Ragged, kept: np.ndarray, made_up: bool
) -> dict[str, float]:
    """For the record alone: the share of right answers before and after refining, and of those that were kept. Right is
    what does not contradict the label, or where none is known what the verifier finds no fault with. Empty where
    there is neither."""
    known, text = find_questions(context.config.data.source) is not None and not made_up, context.renderer.text
    verifier = context.verifier
    if not known and verifier is None:
        return {}

    def is_right(question: np.ndarray, label: np.ndarray, response: np.ndarray) -> bool:
        if known or verifier is None:
            return contradicts(context, text(response), text(label)) is None
        return verifier.review(plain_question(context, question), text(response)).correct

    def right(responses: Ragged) -> np.ndarray:
        rows = zip(questions.prompt.rows(), questions.answer.rows(), responses.rows(), strict=True)
        return np.array([is_right(*row) for row in rows])

    refined = right(after)
    return {
        "right_before": float(right(before).mean()),
        "right_refined": float(refined.mean()),
        "right_kept": float(refined[kept].mean()) if len(kept) else 0.0,
    }


def finish(context: RunContext, stage: str, rows: ExampleRows, counts: dict, replayed: str | None = None) -> None:
    """Writes a stage's counts and its examples, behind those of the stage `replayed`, and says what there is."""
    write_json(context.folder.stage(stage) / COUNTS, counts)
    said = ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in counts.items()
    )
    context.tracker.note(f"{stage}: {len(rows)} examples ({said})")
    rows.without_repeats().write(stage, replayed)
