"""The simulated cluster against times that can be reckoned by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.dispatch import Dispatch
from benchmarks.speed import scale
from benchmarks.speed.scale import POLICIES, write
from benchmarks.speed.scale_run import Cluster, RecordedTimes, Stragglers, simulate


class Known:
    """A step's four shards take these times; all else is round."""

    scorers, score, learn, sync, abort = 4, 0.25, 3.0, 0.125, 0.05

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds

    def shards(self, call: int, count: int) -> np.ndarray:
        assert count == len(self.seconds)
        return np.array(self.seconds)

    def again(self, call: int, shard: int, before: int) -> float:
        return 1.0


def test_with_a_lag_learning_and_sampling_overlap(tmp_path: Path) -> None:
    behind = [simulate(Cluster(2, 4, 5, lag), Known(1, 1, 1, 1), Dispatch(), tmp_path / str(lag)) for lag in (0, 1)]
    plain, lagged = (found.seconds for found in behind)
    assert plain == pytest.approx(5 * (2 + 0.25 + 3 + 0.125))
    assert lagged == pytest.approx((2 + 0.25) + 5 * (3 + 0.125))
    assert [found.idle for found in behind] == pytest.approx([1 - 10 / plain, 1 - 10 / lagged])


@pytest.mark.parametrize(
    ("policy", "sampling", "busy"), [("oracle", 5.0, 8.0), ("in turn", 6.0, 8.0), ("ours", 3.5, 3 + 2.55 + 1)]
)
def test_what_becomes_of_a_straggler(tmp_path: Path, policy: str, sampling: float, busy: float) -> None:
    found = simulate(Cluster(2, 4, 1, 0), Known(1, 1, 1, 5), POLICIES[policy](2), tmp_path)
    assert found.seconds == pytest.approx(sampling + 0.25 + 3 + 0.125)
    assert found.idle == pytest.approx(1 - 8 / (2 * found.seconds)), "the work is the same"
    assert found.unoccupied == pytest.approx(1 - busy / (2 * found.seconds))
    assert found.again == (0.25 if policy == "ours" else 0)


def test_what_is_recorded_is_what_is_drawn() -> None:
    cluster = Cluster(8, 64, 1, 1)
    steady, slow = (RecordedTimes(cluster, Stragglers(share), seed=3) for share in (0.0, 1.0))
    drawn, slowed = steady.shards(0, 64), slow.shards(0, 64)
    assert set(drawn) <= set(steady.seconds)
    assert (slowed >= 3 * drawn - 1e-9).all() and (slowed <= 10 * drawn + 1e-9).all()
    assert steady.again(0, 5, 1) == drawn[5]


def test_the_figures_are_made_from_the_real_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (
        ("WORKERS", (1, 4)),
        ("SHARDS_EACH", (2,)),
        ("LEARN_RATIOS", (0.5,)),
        ("MOST_STEPS", 6),
        ("REPEATED", 1),
    ):
        monkeypatch.setattr(scale, name, small)
    rows = scale.idle(Stragglers())
    assert [(row["workers"], row["lag"]) for row in rows] == [(1, 0), (4, 0), (1, 1), (4, 1)]
    alone = [row for row in rows if row["workers"] == 1]
    assert all(row["ours"] == row["oracle"] == row["in turn"] for row in alone), "one worker does everything"
    monkeypatch.setattr(scale, "PROMPTS", (256, 1280))
    driver = scale.cost()
    write({"idle": rows, "driver": driver}, tmp_path / "scale.json")
    scale.draw(rows, driver, tmp_path / "scale.svg")
    assert "peak_kib" in (tmp_path / "scale.json").read_text() and (tmp_path / "scale.svg").stat().st_size > 1000
