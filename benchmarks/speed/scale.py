"""The real PPO driver at scale, simulated: roles in this process that take recorded times in virtual time; from 1 to
512 rollout workers, with stragglers, and from a thousand to a million prompts a phase.

Workers' idle time is compared with an oracle's: the same driver, lag, shards and calls, but shards are handed out by
someone who knows what each will take. Times come from `scale_times.json` (`scale_record`).

usage: python -m benchmarks.speed.scale FINDINGS [CHART]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from actors.dispatch import Dispatch
from benchmarks.speed.findings import FINDINGS, ROOT, Finding, finding
from benchmarks.speed.scale_chart import draw
from benchmarks.speed.scale_run import Cluster, InTurn, LongestFirst, Outcome, RecordedTimes, Stragglers, simulate

WORKERS, SHARDS_EACH, LEARN_RATIOS = (1, 8, 64, 512), (1, 2, 4, 8, 16), (0.5, 1.0)
SHARDS_SEEN = 2000
"""Of each cluster at least so many, or FEWEST_STEPS steps."""
FEWEST_STEPS, MOST_STEPS = 2, 40
PROMPTS, REPEATED = (1_000, 10_000, 100_000, 1_000_000), 20_000
"""Of a phase; a short one is repeated until so many have gone through it."""
DRIVER = Cluster(workers=8, shards=8, steps=0, lag=1, shard_size=16, checkpoint_every=5)
Row = dict[str, Any]
POLICIES: dict[str, Callable[[int], Dispatch[int]]] = {
    "oracle": lambda workers: LongestFirst(), "ours": lambda workers: Dispatch(), "in turn": InTurn,
}  # fmt: skip


def run(cluster: Cluster, policy: Dispatch[int], stragglers: Stragglers, traced: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return simulate(cluster, RecordedTimes(cluster, stragglers, seed=1), policy, Path(folder), traced)


def idle(stragglers: Stragglers) -> list[Row]:
    """A row for each cluster: each policy's idle share, and how far ours is above the oracle's in whichever way that is
    more: by the work done, or by the time in which workers did nothing at all."""
    rows = []
    for lag, ratio, workers, each in product((0, 1), LEARN_RATIOS, WORKERS, SHARDS_EACH):
        shards = workers * each
        steps = min(max(SHARDS_SEEN // shards, FEWEST_STEPS), MOST_STEPS)
        cluster = Cluster(workers, shards, steps, lag, shard_size=1, learn_ratio=ratio, checkpoint_every=1000)
        found = {name: run(cluster, make(workers), stragglers) for name, make in POLICIES.items()}
        row: Row = {"workers": workers, "shards_each": each, "lag": lag, "learn_ratio": ratio, "steps": steps}
        row |= {name: round(outcome.idle, 4) for name, outcome in found.items()}
        ours, oracle = found["ours"], found["oracle"]
        row["above"] = round(max(ours.idle - oracle.idle, ours.unoccupied - oracle.unoccupied), 4)
        rows.append(row | {"done_again": round(ours.again, 4)})
        print(f"  {rows[-1]}", flush=True)
    return rows


def cost() -> list[Row]:
    """A row for each number of prompts a phase: what the driver takes for one, and its memory; and one where no prompt
    comes twice."""
    run(Cluster(**asdict(DRIVER) | {"steps": 8}), Dispatch(), Stragglers())  # imports, caches
    return [cost_of(prompts, DRIVER.rows) for prompts in PROMPTS] + [cost_of(PROMPTS[-1], PROMPTS[-1])]


def cost_of(prompts: int, data: int) -> Row:
    quiet = Stragglers(share=0.0)
    steps = -(-prompts // (DRIVER.shards * DRIVER.shard_size))
    cluster = Cluster(**asdict(DRIVER) | {"steps": steps, "rows": data})
    repeats = max(1, REPEATED // prompts)
    seconds = [run(cluster, Dispatch(), quiet).cpu for _ in range(repeats)]
    each = 1e6 * sum(seconds) / repeats / cluster.samples
    row: Row = {"prompts": cluster.samples, "data": data, "microseconds": round(each, 2)}
    if data == DRIVER.rows:
        row["peak_kib"] = round(run(cluster, Dispatch(), quiet, traced=True).peak / 1024)
    print(f"  {row}", flush=True)
    return row


def write(tables: dict[str, list[Row]], path: Path) -> None:
    """As JSON, a row a line."""
    parts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in tables.items()]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main(chart: Path) -> list[Finding]:
    began = time.perf_counter()
    known = Stragglers()
    rows, driver = idle(known), cost()
    worst = max(rows, key=lambda row: row["above"])
    before = max(row["in turn"] - row["oracle"] for row in rows)
    print(f"worst: {worst}; in turn: {100 * before:.1f} points above the oracle")
    write({"stragglers": [asdict(known)], "idle": rows, "driver": driver}, chart.with_suffix(".json"))
    draw(rows, driver, chart)
    print(f"{time.perf_counter() - began:.0f} s")
    few, many = driver[0], driver[len(PROMPTS) - 1]
    return [
        finding("scale_idle_share", worst["above"], "<= 0.05"),
        finding("scale_memory", many["peak_kib"] / few["peak_kib"], "<= 1.1"),
        finding("scale_cost", many["microseconds"] / few["microseconds"], "<= 1.1"),
    ]


if __name__ == "__main__":
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "benchmarks" / "scale.svg"
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main(place)))
