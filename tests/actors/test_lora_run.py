"""Whole runs with LoRA on the real engines, synced as an adapter and as merged weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pit_ray.models.folder import weights
from tests.actors.test_methods import ONE_EACH
from tests.actors.test_whole_run import pit_ray

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("sync", "actors"), [("adapter", ()), ("merged", ONE_EACH)])
def test_a_run_with_lora_samples_with_what_it_learns(
    recipe: Path, tmp_path: Path, sync: str, actors: tuple[str, ...]
) -> None:
    run, lora = tmp_path / "run", (f"model.lora.sync={sync}", "model.lora.rank=4", "tracking.profile=false")
    faster = [f"{name}.optimizer.lr=1e-3" for name in ("sft", "reward", "gap_reward", "ppo_policy", "ppo_improver")]
    pit_ray("train", str(recipe), f"run={run}", *lora, *faster, *actors, cwd=tmp_path)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in metrics if record["stage"].startswith("ppo")]
    assert [record["phase"] for record in steps] == ["policy"] * 3 + ["annotated"] * 3 + ["on_policy"] * 2
    for name in ("val/sampler_mismatch_max", "val/canary_difference"):
        assert all(record[name] < 1e-4 for record in steps), "vLLM holds other weights than DeepSpeed"
    models = {path.parent.name[3:]: path for path in run.glob("stages/*/model")}
    assert len(models) == 6 and not any("lora" in name for folder in models.values() for name in weights(folder))
    was, now = (load_file(models[stage] / "model.safetensors") for stage in ("sft_improver", "ppo_improver"))
    changed = {name for name in was if not was[name].equal(now[name])}
    assert changed == {name for name in was if name.endswith("proj.weight")}
