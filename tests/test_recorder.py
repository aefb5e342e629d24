"""The record of a step: a file for each shard, which a step that is done again replaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import WORLDS
from pit_ray.learn.documents import word_tokenizer
from pit_ray.recorder import RolloutRecorder
from pit_ray.records import Prompts, Ragged, Rollouts, Scores
from pit_ray.store import Store

CUTS = (3, 1, 2)


@pytest.fixture
def recorder(tmp_path: Path) -> RolloutRecorder:
    Renderer(word_tokenizer(WORLDS["notes"].vocabulary()), "improve").save(tmp_path / "renderer")
    return RolloutRecorder(tmp_path / "renderer", "world:notes", Store(tmp_path))


def shards(recorder: RolloutRecorder, score: float) -> list[tuple[Rollouts, Scores]]:
    """Six samples in three shards, their scores counting up from `score`."""
    made, first = [], 0
    for size in CUTS:
        uid = np.arange(first, first + size)
        asked = [pair.prompt for pair in WORLDS["notes"].pairs(6, seed=1)][first : first + size]
        prompts = Prompts(
            uid, Ragged.of(map(recorder.renderer.prompt_ids, asked)), Ragged.of([[]] * size), np.zeros(size, np.int8)
        )
        words = Ragged.of(recorder.renderer.response_ids(f"lamp . {'boat . ' * int(i)}") for i in uid)
        zeros = Ragged(np.zeros(len(words.values), np.float32), words.offsets)
        scored = Scores((score + uid).astype(np.float32), np.zeros(size, np.float32))
        made.append((Rollouts(prompts, words, zeros, np.ones(size, bool)), scored))
        first += size
    return made


def test_each_shard_has_its_file_and_a_step_done_again_replaces_them(recorder: RolloutRecorder, tmp_path: Path) -> None:
    folder = tmp_path / "rollouts" / "step-000004"
    recorder.record(folder, shards(recorder, score=10.0))
    metrics = recorder.record(folder, shards(recorder, score=0.0))
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"shard-{number:02d}.parquet" for number in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == list(CUTS)
    step = pq.read_table(folder).to_pydict()
    assert step["uid"] == list(range(6)) and step["score"] == list(range(6))
    assert [len(ids) for ids in step["response_ids"]] == step["length"] == [2 + 2 * i for i in range(6)]
    gold = [WORLDS["notes"].gold(x, y) for x, y in zip(step["prompt"], step["response"], strict=True)]
    assert step["gold"] == gold and metrics["objective/gold"] == (pytest.approx(sum(gold)), 6)


def test_without_a_folder_nothing_is_written(recorder: RolloutRecorder, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    whole = shards(recorder, score=0.0)
    assert recorder.record(None, whole) == recorder.record(tmp_path / "step", whole)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == [
        tmp_path / "step", *(tmp_path / "step" / f"shard-{number:02d}.parquet" for number in range(3))
    ]  # fmt: skip
