"""A LoRA adapter in a running vLLM engine, beside weights that stay.

vLLM 0.32.0 takes adapters from folders alone, so one is written to a folder that lives as long as the loading, in
memory where the machine has such a place.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from pit_ray.config.training import Lora
from pit_ray.errors import InfraError, listed
from pit_ray.models.lora import Adapter, targeted

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM can be told to make room for."""
SHARED_MEMORY = Path("/dev/shm")
NUMBER = 1
"""An engine has one adapter at a time; each takes the place of the one before."""


def adapter_arguments(lora: Lora | None) -> dict[str, Any]:
    """Arguments of vllm.LLM beside the usual ones; none where no adapter is to come."""
    if lora is None or lora.sync == "merged":
        return {}
    room = min(rank for rank in RANKS if rank >= lora.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


@cache
def matrices(base: Path, lora: Lora, trust_remote_code: bool) -> frozenset[str]:
    """The matrices that a learner of this model sends."""
    config = AutoConfig.from_pretrained(str(base), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return frozenset(f"{layer}.lora_{side}.weight" for layer in targeted(empty, lora) for side in "AB")


def check_complete(adapter: Adapter, trust_remote_code: bool) -> None:
    """InfraError unless an adapter has the matrices of all its layers and no others."""
    if wrong := sorted(matrices(adapter.base, adapter.lora, trust_remote_code) ^ adapter.weights.keys()):
        raise InfraError(f"the adapter is not the model's (a partial sync): {listed(wrong)} missing or unknown")


def put_adapter(llm: Any, adapter: Adapter) -> Any:
    """Puts an adapter into a running engine, in the place of the one before, and forgets every cached prefix. Returns
    what requests are given to be answered with it."""
    from vllm.lora.request import LoRARequest

    described = {
        "peft_type": "LORA", "r": adapter.lora.rank, "lora_alpha": adapter.lora.alpha,
        "target_modules": sorted({name.split(".")[-3] for name in adapter.weights}),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        (Path(folder) / "adapter_config.json").write_text(json.dumps(described))
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in adapter.weights.items()}
        save_file(named, Path(folder) / "adapter_model.safetensors")
        llm.llm_engine.add_lora(LoRARequest("policy", NUMBER, folder, load_inplace=True))
    llm.reset_prefix_cache()
    return LoRARequest("policy", NUMBER, folder)
