"""The GPU benchmark as far as CPUs go: what it counts, what it skips, and a rehearsal of all its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.on_gpu import work
from benchmarks.on_gpu.work import Passes, model_size, random_model, rollouts
from pit_ray.models.logprobs import token_logprobs
from pit_ray.models.packing import collate

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@WITHOUT_GPU
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([str(tmp_path / "gpu.json")]) == 1
    assert "no CUDA device: nothing measured" in capsys.readouterr().err
    assert not (tmp_path / "gpu.json").exists()


def test_what_is_not_installed_is_skipped_with_its_name() -> None:
    row = gpu.measure(gpu.Case("learner", ("1b", "ppo", "liger"), ("no_such_package", "torch")), rehearse=True)
    assert row == {"case": "learner 1b ppo liger", "skipped": "not installed: no_such_package"}
    assert "skipped: not installed: no_such_package" in gpu.described(row)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L4", None),
    ],
)  # fmt: skip
def test_peaks_are_found_by_the_devices_name(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert work.peak() == peak
    share = work.speed(1000, 1e14, 0.5)["share_of_peak"]
    assert share == (None if peak is None else pytest.approx(2e14 / peak))


@pytest.mark.parametrize(("size", "parameters"), [("125m", 125e6), ("1b", 1e9), ("7b", 6.7e9)])
def test_models_are_as_large_as_they_are_called(size: str, parameters: float) -> None:
    assert model_size(size).parameters == pytest.approx(parameters, rel=0.03)


def test_arithmetic_is_what_torch_counts_of_a_forward_pass() -> None:
    drawn, model = rollouts("tiny"), random_model("tiny")
    contexts, responses = drawn.prompts.prompt.rows(), drawn.response.rows()
    batch = collate(contexts, responses, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        token_logprobs(model, batch)
    counted = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in counted.items() if "attention" in op)
    lengths = drawn.prompts.prompt.lengths + drawn.response.lengths
    shape = work.SHAPES["tiny"]
    causal = 2.0 * shape.layers * shape.hidden_size * float((lengths.astype(float) ** 2).sum())
    ours = Passes("tiny", lengths, len(drawn.response.values), True).arithmetic - causal
    # Norms are weights too, but no products of matrices.
    assert counter.get_total_flops() - attention == pytest.approx(ours, rel=1e-2)
    assert attention in (0, pytest.approx(2 * causal))  # where torch counts it, with the half that causality leaves out


@pytest.mark.slow
@pytest.mark.parametrize("part", ["learner", "scorer", "generation", "step", "quickstart"])
def test_a_rehearsal_measures_all_that_is_installed(part: str, tmp_path: Path) -> None:
    assert gpu.main([str(tmp_path / "gpu.json"), "--rehearse", "--only", part]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["rehearsal"] and found["commit"]
    assert [row["case"] for row in found["rows"]] == [case.name for case in gpu.rehearsal() if case.part == part]
    for row in found["rows"]:
        if "skipped" not in row:
            assert row.get("seconds", row.get("step")) > 0
