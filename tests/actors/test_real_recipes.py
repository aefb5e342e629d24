"""The recipes for an 8B model, run whole with a small new model swapped in: their data, lengths, stages and ZeRO stage
are their own, on CPUs and for few steps."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from tests.disturbed import Disturbed

pytestmark = pytest.mark.slow

SMALL = (
    "model.path=null", "model.dtype=float32",
    "model.from_scratch={vocab_size: 1024, hidden_size: 64, layers: 2, heads: 2, intermediate_size: 128, "
    "max_position_embeddings: 2048}",
    "data.held_out=24", "data.validation=24", "evaluation={iterations: 1, bootstrap: 50, examples: 3}",
    "ppo_policy.phases=[{name: policy, drafts: none, steps: 2}]",
    "ppo_improver.phases=[{name: annotated, drafts: annotated, steps: 1}, "
    "{name: on_policy, drafts: on_policy, steps: 1}]",
    "ppo_policy.rollouts_per_step=16", "ppo_improver.rollouts_per_step=16", "actors.address=local",
    "actors.learner.ranks=2", "actors.learner.gpus=0", "actors.learner.cpus=0.5", "actors.rollout.gpus=0",
    "actors.rollout.cpus=0.4", "actors.scorer.gpus=0", "actors.scorer.cpus=0.2",
    "actors.rollout.threads=1", "actors.learner.threads=1", "actors.scorer.threads=1",
)  # fmt: skip
SHARED = os.environ.get("PIT_RAY_SHARED_DATA")


def summaries(path: Path) -> None:
    """HH-RLHF's words in the form of TL;DR's pairs: a post as prompt, two summaries."""
    assert SHARED
    with gzip.open(Path(SHARED) / "hh-harmless-1200.jsonl.gz", "rt") as rows, path.open("w") as out:
        for row in map(json.loads, rows):
            post, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
            rejected = row["rejected"].rpartition("\n\nAssistant:")[2]
            pair = {"prompt": f"SUBREDDIT: r/advice\n\nPOST: {post.strip()}\n\nTL;DR:"}
            out.write(json.dumps(pair | {"chosen": chosen[:200], "rejected": rejected[:200]}) + "\n")


@pytest.mark.skipif(SHARED is None, reason="PIT_RAY_SHARED_DATA names no folder with HH-RLHF's pairs")
@pytest.mark.parametrize("name", ["hh", "summarize"])
def test_it_runs_to_its_report(name: str, tmp_path: Path) -> None:
    source, more = Path(str(SHARED)) / "hh-harmless-1200.jsonl.gz", []
    if name == "summarize":
        source = tmp_path / "summaries.jsonl"
        summaries(source)
        more = ["actors.deployment=in_process"]  # the same engines as hh's would take minutes to show nothing new
    run = Disturbed(Path(name), tmp_path / "run", f"data.source={source}", *SMALL, *more)
    run.start()
    assert run.end(900) == 0, run.said[-4000:]
    assert (tmp_path / "run" / "report.html").is_file()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in metrics if record["stage"].startswith("ppo")]
    assert [record["phase"] for record in steps] == ["policy"] * 2 + ["annotated", "on_policy"]
    assert all(record["val/sampler_mismatch_max"] < 1e-4 for record in steps)
