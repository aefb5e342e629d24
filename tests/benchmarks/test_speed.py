"""What benchmarks say of ratios: targets, the last commit's figures, the file that keeps them; and that those who take
turns do the same work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.speed import scoring
from benchmarks.speed.bench import PROGRAMS, read, write
from benchmarks.speed.findings import ROOT, Finding, fallen, finding, in_turn, median_ratio
from benchmarks.speed.one_step import steps_in_turn
from benchmarks.speed.steps import idle_shares
from benchmarks.speed.workloads import LONGEST, SHORTEST, response_lengths
from pit_ray.scoring import ReferencePolicy, RewardModel


@pytest.mark.parametrize(
    ("ratio", "target", "holds"),
    [(0.8, ">= 0.8", True), (0.79, ">= 0.8", False), (25.0, "<= 25", True), (26, "<= 25", False), (3.0, "", None)],
)
def test_a_target_is_held_or_missed(ratio: float, target: str, holds: bool | None) -> None:
    assert finding("x", ratio, target).holds is holds


def made(name: str, ratio: float, target: str) -> Finding:
    return finding(name, ratio, target)


def test_what_became_worse_by_a_tenth_is_said_whichever_way_is_better() -> None:
    before = [made("up", 1.0, ">= 1"), made("down", 10.0, "<= 20"), made("steady", 1.0, ""), made("gone", 1.0, "")]
    now = [made("up", 0.85, ">= 1"), made("down", 12.0, "<= 20"), made("steady", 0.95, ""), made("new", 0.1, "")]
    said = fallen(before, now)
    assert [sentence.split()[0] for sentence in said] == ["up", "down"]
    assert fallen(now, before) == []


def test_figures_take_the_place_of_those_of_their_name(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write([made("a", 1.0, ""), made("b", 2.0, "")], path)
    write([made("b", 3.0, "")], path)
    assert {found.name: found.ratio for found in read(path)} == {"a": 1.0, "b": 3.0}


def test_all_take_their_turn_and_the_first_time_does_not_count() -> None:
    order: list[str] = []
    seconds = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert "".join(order) == "ab" * 4
    assert [len(seconds[name]) for name in "ab"] == [3, 3]


def test_a_machine_that_is_slow_for_a_while_changes_no_ratio() -> None:
    steady, slow = np.array([2.0, 2.1, 1.9, 2.0, 2.0]), np.array([1.0, 1.0, 30.0, 1.0, 1.0])
    assert median_ratio(steady * slow, slow) == pytest.approx(2.0)


def test_lengths_spread_as_they_say() -> None:
    lengths = response_lengths(4000, 0)
    assert lengths.min() == SHORTEST and lengths.max() == LONGEST
    assert np.median(lengths) == pytest.approx(50, rel=0.1)


def call(method: str, begin: float, seconds: float) -> list[dict[str, object]]:
    """What Ray writes for an actor's call, here one that takes a second to get its arguments and to answer."""
    whole = (f"task::Actor.{method}", begin - 1, seconds + 2)
    spans = {method: whole, "task:execute": ("task:execute", begin, seconds)}
    return [
        {"ph": "X", "cat": kind, "name": name, "tid": f"worker:{method}", "ts": since * 1e6, "dur": took * 1e6}
        for name, (kind, since, took) in spans.items()
    ]


def test_a_step_is_idle_where_no_actor_is_at_work() -> None:
    calls = [
        call("verify", 0, 1), call("generate", 3, 2), call("score", 5, 1), call("logprobs", 5, 1), call("learn", 6, 3),
        call("record", 9, 2), call("verify", 10, 1), call("learn", 11, 9), call("verify", 20, 1),
    ]  # fmt: skip
    assert idle_shares([event for events in calls for event in events]) == pytest.approx([3 / 10, 0])


def test_every_program_that_make_bench_runs_is_there() -> None:
    assert [name for name in PROGRAMS if not (ROOT / "benchmarks" / "speed" / f"{name}.py").is_file()] == []


class Counted:
    """Takes as many seconds as steps it has made."""

    def __init__(self, who: str, order: list[str]) -> None:
        self.who, self.order, self.made = who, order, 0

    def step(self) -> dict[str, float]:
        self.order.append(self.who)
        self.made += 1
        return {"generate": 0.0, "step": float(self.made)}


def test_steps_take_turns_and_the_first_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    seconds = steps_in_turn({who: Counted(who, order) for who in "ab"}, rounds=2, name="short")
    assert "".join(order) == "ababab"
    assert seconds == {"a": [2.0, 3.0], "b": [2.0, 3.0]}
    assert "a, short responses" in capsys.readouterr().out


def test_padded_batches_score_what_packed_ones_do(causal: Path, scalar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LONGEST", 40)
    made = scoring.rollouts(scoring.BATCH + 3, 250, eos=1)  # the last batch is not whole
    cpu = torch.device("cpu")
    packed = RewardModel(scalar, "gap", 1, torch.float32, cpu, 1000, False).score(made).score
    np.testing.assert_allclose(scoring.padded_gaps(scalar, made, 1)(), packed, atol=1e-5)
    logprobs = ReferencePolicy(causal, torch.float32, cpu, 1000, False).logprobs(made).values
    np.testing.assert_allclose(scoring.padded_logprobs(causal, made)(), logprobs, atol=1e-4)
