"""Calls of engines go to the deployment that holds the model, and end when their request does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError

from actors.serve.engine import Piece, Writing
from actors.serve.engines import ServedEngines, Stopped, Work, at_work, place
from pit_ray.data.randomness import derive_seed
from pit_ray.errors import InfraError
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.roles import GenerateRequest, Resolved

EOS = 1
REQUEST = GenerateRequest(temperature=0.5, max_new_tokens=4, seed=7, shard_size=1)


class StubCall:
    """What a deployment handle returns at once: an answer in the making, whole or in pieces."""

    def __init__(self, answer: Any, forever: bool) -> None:
        self.answer, self.forever, self.cancelled = answer, forever, False

    def __await__(self) -> Any:
        return self._whole().__await__()

    async def _whole(self) -> Any:
        if self.forever:
            await asyncio.sleep(3600)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def __aiter__(self) -> AsyncIterator[Any]:
        for piece in self.answer:
            yield piece
            await asyncio.sleep(3600 if self.forever else 0)

    def cancel(self) -> None:
        self.cancelled = True


class StubHandle:
    """A deployment of which it is recorded what it was asked; it writes its own number, and scores with it."""

    def __init__(self, number: int, forever: bool = False, error: Exception | None = None) -> None:
        self.number, self.forever, self.error = number, forever, error
        self.asked: list[Any] = []
        self.calls: list[StubCall] = []
        self.write, self.score, self.stream = self, self, self

    def options(self, stream: bool) -> StubHandle:
        return StubStream(self)

    def remote(self, given: Any) -> StubCall:
        self.asked.append(given)
        piece = Piece([self.number, EOS], [-0.5, -0.25], True)
        scores = Scores(np.array([self.number], np.float32), np.zeros(1, np.float32))
        answer = self.error or (scores if isinstance(given, Rollouts) else piece)
        self.calls.append(StubCall(answer, self.forever))
        return self.calls[-1]


class StubStream(StubHandle):
    """The same deployment, asked for pieces."""

    def __init__(self, whole: StubHandle) -> None:
        super().__init__(whole.number, whole.forever)
        self.asked, self.calls = whole.asked, whole.calls

    def remote(self, given: Any) -> StubCall:
        self.asked.append(given)
        pieces = [Piece([self.number], [-0.5], False), Piece([EOS], [-0.25], True)]
        self.calls.append(StubCall(pieces, self.forever))
        return self.calls[-1]


def prompts(count: int) -> Prompts:
    """x = [5, 6, …], draft [8], bridge [9]."""
    x = Ragged.of([5] * (i + 1) for i in range(count))
    return Prompts(
        np.arange(count), x, Ragged.of([[8]] * count), np.ones(count, np.int8), np.array([9], dtype=np.int32)
    )


def in_a_thread(job: Callable[[Work], Any], before: Callable[[Work], None] = lambda work: None) -> tuple[Any, Work]:
    """What a request's thread gives, while the event loop waits for it; `before` is called in the loop meanwhile."""

    async def play() -> tuple[Any, Work]:
        loop = asyncio.get_running_loop()
        work = Work(loop)

        def run() -> Any:
            with at_work(work):
                return job(work)

        with ThreadPoolExecutor(1) as threads:
            running = loop.run_in_executor(threads, run)
            await asyncio.sleep(0.05)
            before(work)
            return await running, work

    return asyncio.run(play())


def test_each_model_is_asked_where_it_is(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("policy", "improver", "reward")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "alias").symlink_to(folders[1])
    handles = [StubHandle(n) for n in range(2, 6)]
    engines = ServedEngines(
        {place(folders[0]): handles[0], place(folders[1]): handles[1]},
        {(place(folders[2]), "gap"): handles[2], (place(folders[2]), "reward"): handles[3]},
    )

    def job(work: Work) -> tuple[list[int], list[float]]:
        written = [
            engines.sampler(folder).generate(prompts(1), REQUEST).result()
            for folder in (folders[0], folders[1], tmp_path / "alias")
        ]
        kinds: tuple[Any, ...] = ("gap", "reward")
        scores = [engines.scorer(folders[2], kind).score(Resolved(written[0])).result() for kind in kinds]
        return [int(r.response[0][0]) for r in written], [float(s.score[0]) for s in scores]

    (written, scores), _ = in_a_thread(job)
    assert written == [2, 3, 3] and scores == [4.0, 5.0]


def test_rows_are_written_with_their_contexts_and_draws_and_counted() -> None:
    handle = StubHandle(4)
    engines = ServedEngines({place(Path("m")): handle}, {})
    rollouts, work = in_a_thread(lambda work: engines.sampler(Path("m")).generate(prompts(2), REQUEST).result())
    assert [writing.context for writing in handle.asked] == [[5, 8, 9], [5, 5, 8, 9]]
    assert [writing.seed for writing in handle.asked] == [derive_seed(7, 0), derive_seed(7, 1)]
    assert {(w.temperature, w.max_new_tokens) for w in handle.asked} == {(0.5, 4)}
    assert [row.tolist() for row in rollouts.response.rows()] == [[4, EOS]] * 2
    assert [row.tolist() for row in rollouts.logprobs.rows()] == [[-0.5, -0.25]] * 2
    assert rollouts.finished.all() and rollouts.temperature == 0.5
    assert (work.calls, work.prompt_tokens, work.completion_tokens) == (2, 7, 4)


def test_a_listener_hears_what_the_whole_holds() -> None:
    heard: list[Piece] = []
    engines = ServedEngines({place(Path("m")): StubHandle(4)}, {})

    def job(work: Work) -> Rollouts:
        work.listener = heard.append
        return engines.sampler(Path("m")).generate(prompts(1), REQUEST).result()

    rollouts, work = in_a_thread(job)
    assert [piece.ids for piece in heard] == [[4], [EOS]]
    assert rollouts.response[0].tolist() == [4, EOS] and rollouts.finished.all()
    assert (work.calls, work.completion_tokens) == (1, 2)


@pytest.mark.parametrize("listens", [False, True])
def test_a_request_that_is_given_up_ends_its_calls(listens: bool) -> None:
    handle = StubHandle(4, forever=True)
    engines = ServedEngines({place(Path("m")): handle}, {})

    def job(work: Work) -> str:
        if listens:
            work.listener = lambda piece: None
        for _ in range(2):  # also the call that would come next
            with pytest.raises(Stopped):
                engines.sampler(Path("m")).generate(prompts(1), REQUEST)
        return "ended"

    ended, work = in_a_thread(job, before=Work.stop)
    assert ended == "ended" and work.calls == 0
    assert [call.cancelled for call in handle.calls] == [True], "the engine is told, and not asked again"


def test_what_ray_says_becomes_an_error_of_ours() -> None:
    engines = ServedEngines({place(Path("m")): StubHandle(4, error=RayActorError())}, {})

    def job(work: Work) -> None:
        with pytest.raises(InfraError, match="died"):
            engines.sampler(Path("m")).generate(prompts(1), REQUEST)

    in_a_thread(job)


def test_a_writing_crosses_processes() -> None:
    import pickle

    writing = Writing([1, 2], 0.5, 3, 4)
    assert pickle.loads(pickle.dumps(writing)) == writing
