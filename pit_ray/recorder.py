"""Judging and writing rollouts: a Parquet file for each shard of a step, for people, and the metrics of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pit_ray.data.parquet import list_column, write_table
from pit_ray.data.templates import Renderer
from pit_ray.data.worlds import find_world
from pit_ray.improve import without_end
from pit_ray.metrics import Metrics
from pit_ray.records import DRAFT_SOURCES, Rollouts, Scores
from pit_ray.store import Store


class RolloutRecorder:
    """Turns rollouts into text, judges them by gold in a world, writes them down."""

    def __init__(self, renderer: Path, source: str, store: Store) -> None:
        store.pull(renderer)
        self.renderer, self.store = Renderer.load(renderer), store
        self.world = find_world(source)

    def record(self, folder: Path | None, shards: Sequence[tuple[Rollouts, Scores]]) -> Metrics:
        """Metrics of a step's samples (objective/gold and pit/gold_gain in a world); with a folder, also a Parquet file
        of each shard in it. A shard that is made again replaces its file."""
        rollouts = Rollouts.concatenate([shard for shard, _ in shards])
        scores = Scores.concatenate([scored for _, scored in shards])
        prompts = rollouts.prompts
        asked, drafts, written = (
            [self.renderer.text(row) for row in rows.rows()]
            for rows in (prompts.prompt, prompts.draft, without_end(rollouts))
        )
        improving = prompts.bridge is not None
        metrics = Metrics.of(
            len(written), val__distinct=len(set(written)) / len(written), val__policy_version=rollouts.version
        )
        columns = {"uid": prompts.uid, "prompt": asked, "response": written, "score": scores.score}
        if improving:
            columns |= {"draft": drafts, "draft_source": [DRAFT_SOURCES[i] for i in prompts.draft_source]}
            copied = np.mean([a == b for a, b in zip(drafts, written, strict=True)])
            metrics |= Metrics.of(
                len(written),
                objective__gap=float(scores.score.mean()),
                pit__win_rate=float((scores.score > 0).mean()),
                pit__copied=float(copied),
            )
        if self.world is not None:
            gold = np.array([self.world.gold(x, y) for x, y in zip(asked, written, strict=True)])
            columns["gold"] = gold
            metrics |= Metrics.of(len(written), objective__gold=float(gold.mean()))
            if improving:
                columns["draft_gold"] = np.array([self.world.gold(x, y) for x, y in zip(asked, drafts, strict=True)])
                gain = float((gold - columns["draft_gold"]).mean())
                metrics |= Metrics.of(len(written), pit__gold_gain=gain)
        if folder is not None:
            table, start = pa.table(columns | self._ids(rollouts)), 0
            for number, (shard, _) in enumerate(shards):
                write_table(table.slice(start, len(shard)), folder / f"shard-{number:02d}.parquet")
                start += len(shard)
            self.store.push(folder)
        return metrics

    def _ids(self, rollouts: Rollouts) -> dict[str, object]:
        rows = len(rollouts)
        return {
            "response_ids": list_column(rollouts.response),
            "logprobs": list_column(rollouts.logprobs),
            "length": rollouts.response.lengths,
            "finished": rollouts.finished,
            "policy_version": np.full(rows, rollouts.version),
            "temperature": np.full(rows, rollouts.temperature, dtype=np.float32),
        }
