"""Metrics merge as if every number had been seen at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.metrics import Metrics, merge

PARTS = st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=5)


@given(PARTS)
def test_merged_averages_are_those_of_all_values_together(parts: list[list[float]]) -> None:
    merged = merge([Metrics.of(len(part), loss__sft=float(np.mean(part))) for part in parts])
    everything = [value for part in parts for value in part]
    assert merged.mean("loss/sft") == pytest.approx(np.mean(everything), abs=1e-6)
    assert merged["loss/sft"][1] == len(everything)


def test_names_of_one_side_are_kept_and_neither_side_changes() -> None:
    ours, theirs = Metrics.of(a=1, b=2), Metrics.of(3, b=6)
    assert (ours | theirs) == {"a": (1.0, 1.0), "b": (20.0, 4.0)}
    assert ours == {"a": (1.0, 1.0), "b": (2.0, 1.0)}
    assert theirs == {"b": (18.0, 3.0)}
    ours |= theirs
    assert isinstance(ours, Metrics)
    assert ours.mean("b") == 5.0


def test_values_are_sorted_by_name_and_leave_out_what_was_never_seen() -> None:
    metrics = Metrics({"val/b": (6.0, 2.0), "val/a": (1.0, 4.0), "val/none": (0.0, 0.0)})
    assert list(metrics.values_by_name().items()) == [("val/a", 0.25), ("val/b", 3.0)]


def test_a_name_that_was_not_recorded_is_an_error() -> None:
    with pytest.raises(KeyError, match="loss/sft"):
        Metrics.of(a=1).mean("loss/sft")
    assert merge([]) == {}
