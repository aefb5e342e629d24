"""A finished run of tiny models, and limits for services over it."""

from __future__ import annotations

import pytest

from actors.serve.limits import Limits, digest
from pit_ray.run_folder import RunFolder
from tests.in_process.small_run import config_for, run_to_the_end

KEY = "correct-horse-battery"
MOST = 96
"""Tokens of a prompt or draft."""
LIMITS = Limits(concurrent=2, queue=1, deadline=5.0, key_digest=digest(KEY))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """PIT, two steps of everything, with attention heads of a size that vLLM has kernels for."""
    limit = {"max_tokens": MOST}
    fitted = {"epochs": 0.1, "batch_size": 4}
    ppo = {"rollouts_per_step": 4, "shard_size": 4, "minibatches": 1, "optimizer": {"lr": 2e-2}}
    config = config_for(
        tmp_path_factory.mktemp("served") / "run",
        data={
            "source": "world:notes", "pairs": 60, "held_out": 4, "validation": 4,
            "lengths": {"prompt": limit, "draft": limit, "response": limit},
        },
        model={
            "from_scratch": {
                "vocab_size": 400, "hidden_size": 64, "layers": 1, "heads": 2, "intermediate_size": 48,
                "max_position_embeddings": 512,
            },
            "dtype": "float32",
            "improve_instruction": "improve",
        },
        sft=fitted, reward=fitted, gap_reward=fitted,
        ppo_policy=ppo | {"phases": [{"name": "policy", "drafts": "none", "steps": 1}]},
        ppo_improver=ppo | {"phases": [{"name": "on_policy", "drafts": "on_policy", "steps": 1}]},
        # The least that transformers takes for the most likely token each time, so that it can be compared with.
        actors={
            "deployment": "in_process", "rollout": {"threads": 1, "kv_cache_gib": 0.1}, "scorer": {"threads": 1},
        },
        evaluation={"iterations": 2, "bootstrap": 20, "examples": 2, "temperature": 1e-4},
    )  # fmt: skip
    return run_to_the_end(config)
