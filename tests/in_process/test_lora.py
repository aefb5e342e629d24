"""A run of every stage with LoRA; that it resumes as others do is in test_faults.py."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from pit_ray.run_folder import RunFolder
from tests.in_process.small_run import CAUSAL, REWARDS, summary

STARTS = {
    "reward": "sft_policy", "gap_reward": "reward", "ppo_policy": "sft_policy", "ppo_improver": "sft_improver",
}  # fmt: skip


@pytest.mark.parametrize("stage", CAUSAL + REWARDS)
def test_a_stage_writes_a_whole_model_that_differs_from_its_start_by_a_low_rank(
    finished_with_lora: RunFolder, stage: str
) -> None:
    start = finished_with_lora.model(STARTS[stage]) if stage in STARTS else finished_with_lora.base()
    was, now = (load_file(folder / "model.safetensors") for folder in (start, finished_with_lora.model(stage)))
    assert was.keys() - {"score.weight"} == now.keys() - {"score.weight"}
    for name in was.keys() & now.keys():
        change = now[name] - was[name]
        if name.endswith("proj.weight"):
            assert 0 < int(torch.linalg.matrix_rank(change, atol=1e-5)) <= 2, name
        elif name != "score.weight":
            assert not change.any(), name


def test_it_is_evaluated_as_any_run(finished_with_lora: RunFolder) -> None:
    assert "improver_vs_policy" in {comparison["name"] for comparison in summary(finished_with_lora)["comparisons"]}
