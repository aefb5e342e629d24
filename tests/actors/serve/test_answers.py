"""Answers by the models of a real run, in this process: what is served is what the run's improvers say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.serve.answers import Answer, Answerer, Question
from actors.serve.engines import Work, place
from actors.serve.errors import Refused
from actors.serve.served_run import POLICY, ServedContext, improvers_of, needs_of, open_run, served_names
from pit_ray.config.endpoint import Endpoint
from pit_ray.errors import ConfigError
from pit_ray.improve import kept_revisions
from pit_ray.improvers.drafts import DraftImprover
from pit_ray.improvers.interface import Round, improve
from pit_ray.records import Prompts, Ragged
from pit_ray.run_folder import RunFolder
from pit_ray.stages.judged import RunEngines
from tests.actors.serve.conftest import MOST

PROMPT = "tell anna about the lamp ; ask for the key"
QUESTION = Question("pit", PROMPT, "dear anna , bye", None, seed=5, temperature=1.0, max_tokens=None)


@pytest.fixture(scope="module")
def context(finished: RunFolder) -> ServedContext:
    return open_run(str(finished.path))


@pytest.fixture(scope="module")
def answerer(context: ServedContext) -> Answerer:
    """With every improver of the run, on models of this process."""
    engines = RunEngines(context)
    return Answerer(context, engines, improvers_of(context, engines, served_names(context, [])))


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    loop = asyncio.new_event_loop()
    yield Work(loop)
    loop.close()


def answered(answerer: Answerer, work: Work, **changes: Any) -> Answer:
    return answerer.answer(answerer.read(replace(QUESTION, **changes)), work)


def with_margin(answerer: Answerer, context: ServedContext, margin: float) -> Answerer:
    """The same, with another margin of PIT's stopping rule."""
    pit = answerer.improvers["pit"]
    assert isinstance(pit, DraftImprover)
    return Answerer(context, answerer.engines, answerer.improvers | {"pit": replace(pit, margin=margin)})


def all_rounds(answerer: Answerer, iterations: int) -> list[Round]:
    """The rounds of PIT's improver on the question, none spared."""
    asked = answerer.read(QUESTION)
    assert asked.draft is not None
    prompts = Prompts(np.zeros(1, np.int64), Ragged.of([asked.prompt]), Ragged.of([[]]), np.zeros(1, np.int8))
    return improve(answerer.improvers["pit"], prompts, Ragged.of([asked.draft]), iterations, asked.request)


def test_what_a_run_offers(context: ServedContext, answerer: Answerer) -> None:
    assert answerer.names == ["pit", "self_refine", "best_of_n", "sft", POLICY]
    assert served_names(context, ["sft", "pit", "sft"]) == ("sft", "pit")
    with pytest.raises(ConfigError, match=r"no improver 'pitt'.*did you mean 'pit'"):
        served_names(context, ["pitt"])
    with pytest.raises(ConfigError, match=r"needs a round of method self_evolution.*It has pit"):
        served_names(context, ["self"])


def test_a_model_that_several_names_share_is_served_once(context: ServedContext) -> None:
    policy, improver = place(context.model("ppo_policy")), place(context.model("ppo_improver"))
    assert needs_of(context, ["best_of_n", "self_refine"]).models == (policy,)
    assert needs_of(context, ["best_of_n", "pit"]).models == (policy, improver)
    reward, gap = (place(context.model("reward")), "reward"), (place(context.model("gap_reward")), "gap")
    assert needs_of(context, ["best_of_n", "pit", "sft"]).scorers == (reward, gap)


def test_an_improver_that_asks_an_endpoint_is_not_served(context: ServedContext) -> None:
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="m")
    section = context.config.self_refine.model_copy(update={"model": "endpoint", "endpoint": endpoint})
    outside = replace(context, config=context.config.model_copy(update={"self_refine": section}))
    assert "self_refine" not in served_names(outside, [])
    with pytest.raises(ConfigError, match="keeps each answer in the run folder; it serves pit"):
        served_names(outside, ["self_refine"])


def test_an_unfinished_run_is_told_from_a_finished_one(context: ServedContext, finished: RunFolder) -> None:
    summary = finished.path / "evaluation" / "summary.json"
    kept = summary.read_text()
    try:
        summary.write_text(json.dumps({}))
        with pytest.raises(ConfigError, match="stage evaluate, which chooses when pit stops"):
            improvers_of(context, RunEngines(context), ["pit"])
    finally:
        summary.write_text(kept)


@pytest.mark.parametrize("iterations", [1, 3])
def test_so_many_revisions_as_are_asked_for(answerer: Answerer, work: Work, iterations: int) -> None:
    answer = answered(answerer, work, iterations=iterations)
    rounds = all_rounds(answerer, iterations)
    text = answerer.context.renderer.text
    assert [step.revision for step in answer.steps] == [text(r.responses[0]) for r in rounds[1:]]
    assert [step.draft for step in answer.steps] == [QUESTION.draft, *(s.revision for s in answer.steps[:-1])]
    assert [step.score for step in answer.steps] == pytest.approx([r.score[0] for r in rounds[1:]], abs=1e-5)
    assert answer.response == answer.steps[-1].revision and all(step.kept for step in answer.steps)
    assert answer.usage.scorer_calls == 2 * iterations and answer.measure == "gap"


def test_the_stopping_rule_keeps_what_it_would_of_all_rounds(
    answerer: Answerer, context: ServedContext, work: Work
) -> None:
    """Though rounds after its decision are spared."""
    rounds = all_rounds(answerer, context.config.evaluation.iterations)
    gaps = [r.score for r in rounds[1:]]
    text = context.renderer.text
    spared = 0
    for margin in (-1e9, 1e9, *(float(gap[0]) + shift for gap in gaps for shift in (-1e-3, 1e-3))):
        answer = answered(with_margin(answerer, context, margin), work)
        kept = int(kept_revisions(gaps, margin)[0])
        assert answer.response == text(rounds[kept].responses[0])
        assert [step.kept for step in answer.steps] == [n <= kept for n in range(1, len(answer.steps) + 1)]
        assert len(answer.steps) == min(kept + 1, len(gaps)), "one beyond what is kept tells that it is"
        spared += len(gaps) - len(answer.steps)
    assert spared, "the case that this is about"


def test_the_seed_decides(answerer: Answerer, work: Work) -> None:
    first, again, other = (answered(answerer, work, draft=None, seed=seed) for seed in (1, 1, 2))
    assert first.steps == again.steps and first.steps != other.steps
    assert first.seed == 1


def test_every_improver_answers(answerer: Answerer, work: Work) -> None:
    for name in answerer.names:
        answer = answered(answerer, work, name=name, iterations=None)
        assert answer.name == name and answer.finish_reason in ("stop", "length")
        assert all(step.feedback is not None for step in answer.steps) or name != "self_refine"
    chosen = answered(answerer, work, name=None)
    assert chosen.name == "pit"


def test_tokens_are_bounded_by_the_request_and_the_run(answerer: Answerer) -> None:
    most = answerer.context.config.sampling.max_new_tokens
    for asked, found in ((None, most), (3, 3), (10**6, most)):
        assert answerer.read(replace(QUESTION, max_tokens=asked)).request.max_new_tokens == found
    assert answerer.read(replace(QUESTION, temperature=None)).request.temperature == 1e-4, "the run's own"


def test_what_is_too_long_is_refused_with_its_length(answerer: Answerer) -> None:
    long = "lamp " * (MOST + 1)
    draft = len(answerer.context.renderer.response_ids(long))
    for changes, field, tokens in ({"draft": long}, "draft", draft), ({"prompt": long}, "prompt", None):
        with pytest.raises(Refused) as refused:
            answerer.read(replace(QUESTION, **changes))
        error = refused.value.body()["error"]
        assert refused.value.status == 400 and error["code"] == "context_length_exceeded" and error["param"] == field
        assert f"data.lengths.{field}.max_tokens" in error["message"] and str(MOST) in error["message"]
        assert tokens is None or f"has {tokens} tokens" in error["message"]


def test_only_what_is_sure_to_be_kept_is_streamed(answerer: Answerer) -> None:
    def streams(name: str, iterations: int | None) -> bool:
        return answerer.streams(answerer.read(replace(QUESTION, name=name, iterations=iterations)))

    assert streams(POLICY, None) and streams("pit", 2) and streams("sft", 1)
    assert not any(streams(name, 2) for name in ("best_of_n", "self_refine"))
    assert not streams("pit", None)
