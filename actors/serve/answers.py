"""Answers of one service: what is asked is read, then improved by the improver of that name, as everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from actors.serve.engines import Work, at_work
from actors.serve.errors import Refused, too_long, unknown
from actors.serve.served_run import POLICY, drafter_of, policy_of
from actors.serve.text import TextStream
from pit_ray.curriculum import NO_DRAFT
from pit_ray.errors import DataError
from pit_ray.improve import without_end
from pit_ray.improvers.drafts import DraftImprover
from pit_ray.improvers.interface import Cost, Engines, Improver, Round, improve
from pit_ray.records import Message, Prompts, Ragged
from pit_ray.roles import GenerateRequest
from pit_ray.stages.context import RunContext


@dataclass(frozen=True)
class Question:
    """A request, as its body gives it."""

    name: str | None
    """Of an improver, or the policy. None: the service's first."""
    prompt: str | list[Message]
    draft: str | None
    iterations: int | None
    seed: int
    """Every draw derives from it."""
    temperature: float | None
    """None: the run's evaluation.temperature."""
    max_tokens: int | None
    """Of each thing that is written; the run's sampling.max_new_tokens is the most."""


@dataclass(frozen=True)
class Asked:
    """A request that can be answered."""

    name: str
    prompt: np.ndarray
    """x as token ids."""
    draft: np.ndarray | None
    """None: to be written first."""
    iterations: int | None
    request: GenerateRequest
    seed: int


@dataclass(frozen=True)
class Step:
    """A revision."""

    draft: str
    revision: str
    score: float | None
    """The improver's own: PIT's gap, another's score. None: it gives none."""
    feedback: str | None
    """On the draft; None from an improver that gives none."""
    kept: bool


@dataclass(frozen=True)
class Usage:
    """What an answer took. Tokens of language models are those of all calls, end tokens counted."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    scorer_calls: int = 0
    scorer_tokens: int = 0


@dataclass(frozen=True)
class Answer:
    """A response, and how it came about."""

    name: str
    response: str
    finish_reason: str
    """stop: it ended by itself; length: it was cut off."""
    usage: Usage
    seed: int
    steps: tuple[Step, ...] = ()
    measure: str = "score"
    """What a step's score is: "gap" or "score"."""


@dataclass(frozen=True)
class AtWork:
    """An improver at work on one row. It is the same improver, but spared rounds that its rule would throw away, and
    told of before its last one."""

    inner: Improver
    decided: Callable[[Sequence[Round]], bool]
    """Whether what is kept no longer hangs on further rounds."""
    before: Callable[[int], None]
    """Called with the number of each round, from 1."""

    @property
    def name(self) -> str:
        return self.inner.name

    def begin(self, asked: Prompts, drafts: Ragged, request: GenerateRequest) -> Round:
        return self.inner.begin(asked, drafts, request)

    def revise(self, asked: Prompts, rounds: Sequence[Round], request: GenerateRequest) -> Round:
        if self.decided(rounds):
            n = len(asked)
            return replace(rounds[-1], revised=np.zeros(n, bool), cost=Cost.of(n))
        self.before(len(rounds))
        return self.inner.revise(asked, rounds, request)

    def kept(self, rounds: Sequence[Round]) -> np.ndarray:
        return self.inner.kept(rounds)


class Answerer:
    """Reads requests and answers them; used by many threads."""

    def __init__(self, context: RunContext, engines: Engines, improvers: Mapping[str, Improver]) -> None:
        self.context, self.engines, self.improvers = context, engines, dict(improvers)
        self.drafters = {name: drafter_of(context, name) for name in improvers}
        policy = policy_of(context)
        self.policy: dict[str, Path] = {} if policy is None else {POLICY: policy}

    @property
    def names(self) -> list[str]:
        """What may be asked for by name."""
        return [*self.improvers, *self.policy]

    def read(self, question: Question) -> Asked:
        """Refused when the name is unknown (404), or a text is longer than the run's models were made for (400)."""
        name = next(iter(self.improvers)) if question.name is None else question.name
        if name not in self.names:
            raise unknown(name, self.names)
        config, renderer = self.context.config, self.context.renderer
        lengths, most = config.data.lengths, config.sampling.max_new_tokens
        prompt, draft = question.prompt, None
        try:
            ids = renderer.prompt_ids([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
        except DataError as error:
            raise Refused(400, str(error), param="messages") from error
        if len(ids) > lengths.prompt.max_tokens:
            raise too_long("prompt", len(ids), lengths.prompt.max_tokens, "data.lengths.prompt", "prompt")
        if question.draft is not None:
            draft = np.array(renderer.response_ids(question.draft), dtype=np.int32)
            if len(draft) > lengths.draft.max_tokens:
                raise too_long("draft", len(draft), lengths.draft.max_tokens, "data.lengths.draft", "draft")
        request = GenerateRequest(
            config.evaluation.temperature if question.temperature is None else question.temperature,
            min(question.max_tokens or most, most),
            question.seed,
            shard_size=1,
        )
        return Asked(name, np.array(ids, dtype=np.int32), draft, question.iterations, request, question.seed)

    def streams(self, asked: Asked) -> bool:
        """Whether it is known beforehand which of the texts to be written is the response: the policy's only one, or
        the last of a given number of revisions that are all made."""
        return asked.name in self.policy or (
            asked.iterations is not None and isinstance(self.improvers[asked.name], DraftImprover)
        )

    def answer(self, asked: Asked, work: Work, tell: Callable[[str], None] | None = None) -> Answer:
        """The answer, made in the calling thread; `tell` is told of its text as it grows, where `streams`."""
        with at_work(work):
            if asked.name in self.policy:
                return self._plain(asked, work, tell)
            return self._improved(asked, work, tell)

    def _plain(self, asked: Asked, work: Work, tell: Callable[[str], None] | None) -> Answer:
        ending = self._listen(work, tell) if tell else None
        written = self.engines.sampler(self.policy[asked.name]).generate(_row(asked), asked.request).result()
        response = self.context.renderer.text(without_end(written)[0])
        if ending:
            ending(response)
        return Answer(asked.name, response, _reason(written.finished), self._usage(work), asked.seed)

    def _improved(self, asked: Asked, work: Work, tell: Callable[[str], None] | None) -> Answer:
        inner, prompts = self.improvers[asked.name], _row(asked)
        text = self.context.renderer.text
        draft = asked.draft
        if draft is None:
            written = self.engines.sampler(self.drafters[asked.name]).generate(prompts, asked.request).result()
            draft = without_end(written)[0]
        iterations = asked.iterations or self.context.config.evaluation.iterations
        ending: list[Callable[[str], None]] = []

        def before(number: int) -> None:
            if tell and number == iterations and self.streams(asked):
                ending.append(self._listen(work, tell))

        improver = AtWork(inner, lambda rounds: asked.iterations is None and _decided(inner, rounds), before)
        rounds = improve(improver, prompts, Ragged.of([draft]), iterations, asked.request)
        kept = int(improver.kept(rounds)[0]) if asked.iterations is None else iterations
        response = text(rounds[kept].responses[0])
        for end in ending:
            end(response)
        cost = sum((r.cost for r in rounds[1:]), rounds[0].cost)
        return Answer(
            name=asked.name,
            response=response,
            finish_reason=_reason(rounds[kept].finished),
            usage=self._usage(work, cost),
            seed=asked.seed,
            steps=tuple(steps(rounds, kept, text)),
            measure="gap" if isinstance(inner, DraftImprover) else "score",
        )

    def _listen(self, work: Work, tell: Callable[[str], None]) -> Callable[[str], None]:
        """Tells of what is written from now on; to be called with the whole text at its end."""
        stream, eos = TextStream(self.context.renderer.text), self.context.renderer.eos

        def piece(ids: Sequence[int]) -> None:
            if new := stream.add([i for i in ids if i != eos]):
                tell(new)

        work.listener = lambda found: piece(found.ids)
        return lambda whole: tell(stream.end(whole))

    def _usage(self, work: Work, cost: Cost | None = None) -> Usage:
        scored = (0, 0) if cost is None else (int(cost.scorer_calls[0]), int(cost.scorer_tokens[0]))
        return Usage(work.calls, work.prompt_tokens, work.completion_tokens, *scored)


def steps(rounds: Sequence[Round], kept: int, text: Callable[[np.ndarray], str]) -> list[Step]:
    """The rounds after the first in which something was written, for the only row."""
    found = []
    for number, (last, now) in enumerate(pairwise(rounds), start=1):
        if not now.cost.calls[0]:
            break  # the improver has stopped, and stays so
        score = float(now.score[0])
        feedback = None if last.feedback is None else text(last.feedback[0])
        revised = text(now.responses[0])
        found.append(
            Step(text(last.responses[0]), revised, None if np.isnan(score) else score, feedback, number <= kept)
        )
    return found


def _decided(improver: Improver, rounds: Sequence[Round]) -> bool:
    """PIT's rule keeps what comes before the first gap that is not above its margin."""
    if not isinstance(improver, DraftImprover) or improver.margin is None or len(rounds) == 1:
        return False
    return bool(rounds[-1].score[0] <= improver.margin)


def _row(asked: Asked) -> Prompts:
    """x as the only row, without a draft; its uid, from which draws derive together with the seed, is 0."""
    source = np.full(1, NO_DRAFT, dtype=np.int8)
    return Prompts(np.zeros(1, dtype=np.int64), Ragged.of([asked.prompt]), Ragged.of([[]]), source)


def _reason(finished: np.ndarray) -> str:
    return "stop" if finished[0] else "length"
