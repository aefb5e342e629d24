"""Asking an endpoint that is down, slow, at its limit or talks nonsense: bounded, said clearly, nothing asked twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pit_ray.config.endpoint import Endpoint
from pit_ray.endpoint import Answer, ChatRequest, EndpointClient
from pit_ray.endpoint.answers import KeptAnswers
from pit_ray.errors import ConfigError, InfraError
from tests.stub_endpoint import SOON, Reply, StubEndpoint, completion, failure, last_words, stub_endpoint

ROOT = Path(__file__).parents[1]
KEY = "a key that has no known shape"


def asked(text: str, seed: int | None = None) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), temperature=0.0, max_tokens=16, seed=seed)


def many(n: int) -> list[ChatRequest]:
    return [asked(f"question {i}") for i in range(n)]


def echo(request: dict[str, Any]) -> str:
    return f"about {last_words(request)}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries start at 10 ms, where the endpoint does not ask for longer ones."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stub_endpoint(echo) as running:
        yield running


def client(stub: StubEndpoint, folder: Path, **changed: Any) -> EndpointClient:
    return EndpointClient(stub.section(**{"retries": 1, **changed}), folder)


def test_answers_come_in_order_with_bounded_concurrency(stub: StubEndpoint, tmp_path: Path) -> None:
    def slowly(request: dict[str, Any]) -> str:
        time.sleep(0.03 * (1 + int(last_words(request).split()[-1]) % 3))
        return echo(request)

    stub.rule = slowly
    steps: list[tuple[int, int]] = []
    found = client(stub, tmp_path, concurrency=3).answer(many(12), lambda done, total: steps.append((done, total)))
    assert found == [Answer(f"about question {i}", 10, 3, cached=False) for i in range(12)]
    assert stub.most_at_once == 3
    assert steps == [(done, 12) for done in range(13)]


def test_a_request_carries_what_was_asked(stub: StubEndpoint, tmp_path: Path) -> None:
    turns = ({"role": "system", "content": "be \ud800brief"}, {"role": "user", "content": "why?"})
    client(stub, tmp_path).answer([ChatRequest(turns, 0.5, 7, seed=3)])
    assert stub.requests == [
        {
            "model": "judge-large",
            "messages": [{"role": "system", "content": "be ?brief"}, {"role": "user", "content": "why?"}],
            "temperature": 0.5,
            "max_tokens": 7,
            "seed": 3,
        }
    ]
    assert stub.keys == [f"Bearer {KEY}"]


def test_nothing_is_asked_twice(stub: StubEndpoint, tmp_path: Path) -> None:
    one = client(stub, tmp_path)
    first = one.answer([asked("a"), asked("b"), asked("a")])
    assert [answer.cached for answer in first] == [False, False, True]
    assert (len(stub.requests), one.spent.requests, one.spent.cached) == (2, 2, 1)
    again = client(stub, tmp_path)
    assert [answer.cached for answer in again.answer([asked("b"), asked("a"), asked("c")])] == [True, True, False]
    assert (len(stub.requests), again.spent.requests, again.spent.cached) == (3, 1, 2)


@pytest.mark.parametrize(
    "other",
    [
        lambda stub, folder: client(stub, folder, model="another").answer([asked("a")]),
        lambda stub, folder: client(stub, folder, base_url=stub.url.replace("127.0.0.1", "localhost")).answer(
            [asked("a")]
        ),
        lambda stub, folder: client(stub, folder).answer([asked("a", seed=1)]),
        lambda stub, folder: client(stub, folder).answer([ChatRequest(asked("a").messages, 0.1, 16)]),
        lambda stub, folder: client(stub, folder).answer([ChatRequest(asked("a").messages, 0.0, 17)]),
        lambda stub, folder: client(stub, folder).answer([ChatRequest(({"role": "system", "content": "a"},), 0.0, 16)]),
    ],
    ids=["model", "base_url", "seed", "temperature", "max_tokens", "role"],
)
def test_whatever_decides_the_answer_makes_another_request(
    stub: StubEndpoint, tmp_path: Path, other: Callable[[StubEndpoint, Path], list[Answer]]
) -> None:
    client(stub, tmp_path).answer([asked("a")])
    assert not other(stub, tmp_path)[0].cached and len(stub.requests) == 2


def test_the_cost_is_counted(stub: StubEndpoint, tmp_path: Path) -> None:
    one = client(stub, tmp_path, input_price=2.0, output_price=10.0)
    one.answer(many(5))
    assert (one.spent.prompt_tokens, one.spent.completion_tokens) == (50, 15)
    assert one.spent.price == pytest.approx((50 * 2 + 15 * 10) / 1e6)
    one.answer(many(5))
    assert (one.spent.requests, one.spent.prompt_tokens, one.spent.cached) == (5, 50, 5)


def test_an_endpoint_that_counts_no_tokens_and_says_nothing(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.rule = lambda request: Reply({"choices": [{"message": {"role": "assistant", "content": None}}], "usage": None})
    assert client(stub, tmp_path).answer([asked("a")]) == [Answer("", 0, 0, cached=False)]


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Reply], dict[str, Any], str]] = {
    "5xx": (lambda r: failure(503, "no worker free"), {"retries": 2}, r"503 - no worker free, 3 times"),
    "5xx with a page": (
        lambda r: Reply(b"<html>Bad gateway</html>", 502, {**SOON, "content-type": "text/html"}),
        {},
        r"502, 2 times",
    ),
    "rate": (lambda r: failure(429, "slow down"), {"retries": 2}, r"429 - slow down, 3 times"),
    "rate, long": (
        lambda r: failure(429, "out of quota", **{"retry-after": "86400"}),
        {},
        r"429 - out of quota, to be tried again after 86400 s;",
    ),
    "slow": (lambda r: Reply(completion("x"), before=0.5), {"timeout": 0.1}, r"no answer within 0\.1 s, 2 times"),
    "dripping": (lambda r: Reply(completion("x"), drip=0.03), {"timeout": 0.1}, r"no answer within 0\.1 s, 2 times"),
    "cut": (lambda r: Reply(completion("x"), cut=True), {}, r"peer closed connection .*, 2 times"),
    "not JSON": (
        lambda r: Reply(b"It works!", headers={"content-type": "text/plain"}),
        {},
        r"no chat completion came back, but It works!, 2 times",
    ),
    "half of JSON": (lambda r: Reply(b'{"choices": [{"mess'), {}, r"no chat completion .* but \{.choices.: \[\{.mess"),
    "no choices": (lambda r: Reply({"choices": []}), {}, r"no chat completion came back, but .*, 2 times"),
    "an error as a success": (
        lambda r: Reply({"error": {"message": "overloaded"}}),
        {},
        r"but .*overloaded.*, 2 times",
    ),
    "nothing": (lambda r: Reply(b""), {}, r"but nothing, 2 times"),
    "a bad request": (lambda r: failure(400, "temperature must be 1"), {}, r"400 - temperature must be 1;"),
    "no such model": (
        lambda r: failure(404, "no such model"),
        {"model": "judge-smal"},
        r"model 'judge-smal': .*404 - no such model; the nearest is 'judge-small'",
    ),
    "wrong key": (lambda r: failure(401, f"wrong: {KEY}"), {}, r"does not take the key in OPENAI_API_KEY \(.*\*\*\*\)"),
}


@pytest.mark.parametrize(("rule", "changed", "said"), FAULTS.values(), ids=FAULTS)
def test_an_endpoint_that_goes_on_failing_ends_it(
    stub: StubEndpoint, tmp_path: Path, rule: Callable[..., Reply], changed: dict[str, Any], said: str
) -> None:
    client(stub, tmp_path).answer(many(3))
    stub.rule = rule
    before = len(stub.requests)
    one = client(stub, tmp_path, concurrency=1, **changed)
    with pytest.raises(InfraError, match=said) as caught:
        one.answer([asked("more"), asked("never asked")])
    message = str(caught.value)
    assert f"{stub.url}, model " in message
    assert f"3 answers are kept in {tmp_path / 'answers.jsonl'}; the same command goes on" in message
    assert KEY not in message and "\n" not in message
    assert {last_words(request) for request in stub.requests[before:]} == {"more"}
    assert one.spent.requests == len(stub.requests) - before
    stub.rule = echo
    assert client(stub, tmp_path).answer([asked("more")])[0].text == "about more"


@pytest.mark.parametrize(
    "fault",
    [
        failure(500, "once"),
        failure(429, "once"),
        Reply(b"nonsense"),
        Reply(completion("x"), cut=True),
        Reply({"choices": []}),
    ],
    ids=["5xx", "rate", "nonsense", "cut", "no choices"],
)
def test_a_passing_fault_costs_a_try(stub: StubEndpoint, tmp_path: Path, fault: Reply) -> None:
    stub.rule = lambda request: fault if len(stub.requests) == 1 else echo(request)
    one = client(stub, tmp_path)
    assert one.answer([asked("a")]) == [Answer("about a", 10, 3, cached=False)]
    assert one.spent.requests == 2


def test_retry_after_is_waited_for(stub: StubEndpoint, tmp_path: Path) -> None:
    wait = failure(429, "slow down", **{"retry-after": "0.4"})
    stub.rule = lambda request: wait if len(stub.requests) == 1 else echo(request)
    assert client(stub, tmp_path).answer([asked("a")])[0].text == "about a"
    assert stub.times[1] - stub.times[0] >= 0.4


def test_an_endpoint_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stub_endpoint(echo) as gone:
        section = gone.section(retries=1)
    with pytest.raises(InfraError, match=rf"{gone.url}, model .*: cannot be reached \(.+\), 2 times; 0 answers"):
        EndpointClient(section, tmp_path).answer(many(3))


def test_a_key_that_is_wanted_and_not_set_is_a_matter_of_configuration(
    stub: StubEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE", raising=False)
    one = client(stub, tmp_path, key_variable="JUDGE")
    assert one.answer([asked("a")])[0].text == "about a"  # an endpoint of one's own needs none
    stub.rule = lambda request: failure(401, "no key")
    with pytest.raises(ConfigError, match=r"wants a key \(.*no key\); set JUDGE in the environment"):
        one.answer([asked("b")])
    monkeypatch.setenv("JUDGE", "naïve")
    with pytest.raises(ConfigError, match="JUDGE holds characters that no key has") as caught:
        one.answer([asked("b")])
    assert "naïve" not in str(caught.value)


def test_the_key_stays_where_it_is(stub: StubEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE", KEY)
    one = client(stub, tmp_path, key_variable="JUDGE")
    one.answer([asked("a")])
    assert stub.keys == [f"Bearer {KEY}"]
    for status in (400, 401, 403, 404, 422, 500):
        stub.rule = lambda request, status=status: failure(status, f"I was given {KEY}")
        with pytest.raises(InfraError, match=r"I was given \*\*\*") as caught:
            one.answer([asked("b")])
        assert KEY not in repr(caught.value) and caught.value.__cause__ is None
    stub.rule = lambda request: failure(400, f"context length exceeded by {KEY}")
    assert KEY not in repr(one.answer([asked("b")]))
    assert KEY not in (tmp_path / "answers.jsonl").read_text()


@pytest.mark.parametrize("wrong", [{"key_variable": "sk-abc"}, {"base_url": "judge.example"}, {"model": ""}])
def test_a_configuration_that_cannot_be_meant_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Endpoint(**{"base_url": "https://judge.example/v1", "model": "m", **wrong})


def test_one_request_may_be_refused(stub: StubEndpoint, tmp_path: Path) -> None:
    too_long = failure(400, "This model's maximum context length is 16 tokens. However, you requested 20 tokens.")
    stub.rule = lambda request: too_long if last_words(request) == "long" else echo(request)
    one = client(stub, tmp_path)
    fine, refused, also = one.answer([asked("a"), asked("long"), asked("b")])
    assert (fine.text, fine.refused, also.text) == ("about a", None, "about b")
    assert refused.text == "" and "maximum context length" in str(refused.refused)
    stub.rule = echo
    assert one.answer([asked("long")])[0].text == "about long"  # a refusal is not kept


def test_reasoning_models_are_told_their_limit_by_its_new_name(stub: StubEndpoint, tmp_path: Path) -> None:
    message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    stub.rule = lambda request: failure(400, message) if "max_tokens" in request else echo(request)
    found = client(stub, tmp_path, concurrency=4).answer(many(10))
    assert [answer.text for answer in found] == [f"about question {i}" for i in range(10)]
    limits = [request["max_completion_tokens"] for request in stub.requests if "max_tokens" not in request]
    assert limits == [16] * 10 and len(stub.requests) <= 10 + 4


def test_requests_are_spaced(stub: StubEndpoint, tmp_path: Path) -> None:
    one, started = client(stub, tmp_path, requests_per_minute=600), time.monotonic()
    one.answer(many(5))
    assert stub.times[-1] - started >= 0.39  # since before the first: a request may be late, never early


def test_the_budget_stops_a_run_and_a_higher_one_lets_it_go_on(stub: StubEndpoint, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match=r"max_requests \(7\), is spent; 7 answers are kept .* with a higher one"):
        client(stub, tmp_path, max_requests=7).answer(many(10))
    assert len(stub.requests) == 7
    with pytest.raises(InfraError, match="is spent"):
        client(stub, tmp_path, max_requests=7).answer(many(10))  # it is the run's, not the process's
    assert len(stub.requests) == 7
    assert len(client(stub, tmp_path, max_requests=10).answer(many(10))) == 10
    assert client(stub, tmp_path, max_requests=1).answer(many(10))[9].cached


def test_failed_tries_count_against_the_budget(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.rule = lambda request: Reply(b"nonsense")
    with pytest.raises(InfraError, match="no chat completion"):
        client(stub, tmp_path, max_requests=5, retries=2).answer([asked("a")])
    with pytest.raises(InfraError, match=r"max_requests \(5\), is spent; 0 answers"):
        client(stub, tmp_path, max_requests=5, retries=2).answer([asked("a")])
    assert len(stub.requests) == 5


def test_an_interrupted_call_goes_on_where_it_was(stub: StubEndpoint, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client(stub, tmp_path, concurrency=1).answer(many(10), interrupt)
    assert len(stub.requests) == 4
    found = client(stub, tmp_path).answer(many(10))
    assert [answer.cached for answer in found] == [True] * 4 + [False] * 6
    assert sorted(last_words(request) for request in stub.requests) == [f"question {i}" for i in range(10)]


def test_a_failure_loses_nothing_that_is_in_flight(stub: StubEndpoint, tmp_path: Path) -> None:
    def rule(request: dict[str, Any]) -> Reply:
        if last_words(request) == "question 0":
            return failure(400, "no")
        return Reply(completion(echo(request)), before=0.2)

    stub.rule = rule
    with pytest.raises(InfraError, match="400 - no; 3 answers are kept"):
        client(stub, tmp_path, concurrency=4).answer(many(10))
    assert len(stub.requests) == 4


def test_what_is_not_the_endpoints_error_comes_as_it_is(stub: StubEndpoint, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(InfraError, match=r"answers\.jsonl cannot be written"):
        client(stub, tmp_path).answer([asked("a")])

    def broken(done: int, total: int) -> None:
        if done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client(stub, tmp_path / "other").answer([asked("a")], broken)


PROCESS = """
import sys
from pathlib import Path
from pit_ray.config.endpoint import Endpoint
from pit_ray.endpoint import ChatRequest, EndpointClient

assert "openai" not in sys.modules, "it takes a second that a run without an endpoint should not pay for"
endpoint = Endpoint(base_url=sys.argv[1], model="judge-large", concurrency=1, timeout=60)
requests = [ChatRequest(({"role": "user", "content": f"question {i}"},), 0.0, 16) for i in range(6)]
EndpointClient(endpoint, Path(sys.argv[2])).answer(requests)
"""


def test_another_process_goes_on_where_a_killed_one_was(stub: StubEndpoint, tmp_path: Path) -> None:
    reached = threading.Event()

    def hang_at_four(request: dict[str, Any]) -> str:
        if last_words(request) == "question 4":
            reached.set()
            time.sleep(0.5)
        return echo(request)

    stub.rule = hang_at_four
    killed = subprocess.Popen([sys.executable, "-c", PROCESS, stub.url, str(tmp_path)], cwd=ROOT)
    while not reached.wait(0.1):
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(10) == -signal.SIGKILL
    file = tmp_path / "answers.jsonl"
    with file.open("a") as torn:
        torn.write(file.read_text().splitlines()[0][:40].replace("key", "kez"))
    stub.rule, before = echo, len(stub.requests)
    found = client(stub, tmp_path).answer(many(6))
    assert [answer.cached for answer in found] == [True] * 4 + [False] * 2
    assert {last_words(request) for request in stub.requests[before:]} == {"question 4", "question 5"}
    assert all(answer.cached for answer in client(stub, tmp_path).answer(many(6)))


@given(st.lists(st.text(), min_size=1, max_size=6), st.integers(0, 400))
def test_whatever_is_torn_off_the_rest_is_kept(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int
) -> None:
    path = tmp_path_factory.mktemp("kept") / "answers.jsonl"
    kept = KeptAnswers(path)
    for i, text in enumerate(texts):
        kept.add(str(i), Answer(text, i, 2 * i, cached=False))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    survived = path.read_bytes().count(b"\n")
    again = KeptAnswers(path)
    again.read()
    # A line that lost no more than its end is whole.
    assert survived <= len(again.answers) <= survived + 1
    assert again.requests == len(again.answers)
    again.add("new", Answer("after", 1, 1, cached=False))
    third = KeptAnswers(path)
    third.read()
    assert third.answers == {k: v._replace(cached=True) for k, v in again.answers.items()}
    assert third.answers["new"].text == "after"
    assert all(third.answers[str(i)].text == texts[i] for i in range(survived))


def test_two_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    def write(name: str) -> None:
        kept = KeptAnswers(path)
        for i in range(200):
            kept.add(f"{name}{i}", Answer(name * 3000, i, i, cached=False))

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = KeptAnswers(path)
    kept.read()
    assert len(kept.answers) == kept.requests == 400
    assert {len(answer.text) for answer in kept.answers.values()} == {3000}
