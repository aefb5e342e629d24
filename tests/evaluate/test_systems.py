"""What is picked among systems, and the signs of a hollow win."""

import numpy as np
import pytest

from pit_ray.evaluate.systems import System, health, picked
from pit_ray.records import Ragged


def system(rows: list[list[int]], reward: list[float], finished: list[bool] | None = None, drafts=None) -> System:
    done = None if finished is None else np.array(finished)
    return System(Ragged.of(rows), done, None if drafts is None else Ragged.of(drafts), {"reward": np.array(reward)})


def test_each_prompt_gets_the_answer_that_was_picked_for_it():
    first = system([[1], [2], [3]], [0.1, 0.2, 0.3], [True, True, False])
    second = system([[4, 4], [5, 5], [6, 6]], [1.1, 1.2, 1.3], [False, False, True])
    found = picked([first, second], np.array([True, False, True]), first.responses)
    assert [row.tolist() for row in found.responses.rows()] == [[4, 4], [2], [6, 6]]
    assert found.finished.tolist() == [False, True, True]
    assert found.scores["reward"].tolist() == [1.1, 0.2, 1.3]
    assert found.drafts is first.responses


def test_signs_counted_by_hand():
    drafts = [[1, 2], [3], [4], [5]]
    found = health(system([[1, 2], [1, 2], [4], [6, 7, 8]], [2.0, 2.0, 1.0, 3.0], [True, True, True, False], drafts))
    assert (found.tokens, found.truncated, found.distinct, found.copied) == (2.0, 0.25, 0.75, 0.5)
    assert found.reward_length_correlation == pytest.approx(1)


def test_what_cannot_be_said_is_left_open():
    found = health(system([[1], [2]], [0.5, 0.9]))
    assert (found.truncated, found.copied, found.reward_length_correlation) == (None, None, 0)
    assert health(system([[1], [2, 2]], [0.5, 0.5])).reward_length_correlation == 0
