"""The composition root: what a run needs is checked, then a deployment is chosen and the driver started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from actors.deployment import EngineModel, RayDeployment
from actors.memory import ModelSize, memory_plan
from actors.plan import describe_memory, describe_plan
from actors.processes import on_record
from actors.ray_session import check_machines
from actors.weights import CPU_HEAD_SIZES
from pit_ray import driver
from pit_ray.config import Config
from pit_ray.data.lengths import longest_sequence
from pit_ray.data.templates import Renderer
from pit_ray.errors import LINE, ConfigError, DataError, short
from pit_ray.in_process import InProcess
from pit_ray.lease import claimed
from pit_ray.methods import check_method, stages_of
from pit_ray.models.folder import architecture, weights
from pit_ray.models.load import llama_config
from pit_ray.models.lora import adapter_parameters, targeted
from pit_ray.replay import replay as replay_step
from pit_ray.roles import Deployment
from pit_ray.run_folder import RunFolder, open_existing
from pit_ray.stages.context import RunContext
from pit_ray.stages.data import base_path, base_renderer, check_data
from pit_ray.stages.outlook import FoundData, outlook
from pit_ray.stages.ready import check_ready
from pit_ray.store import store_of
from pit_ray.tracking import Tracker, visible


def train(config: Config) -> None:
    """Runs the configured method to its report, resuming where the run folder stands."""
    check_machines(config)
    check(config)
    folder = RunFolder(config.run)
    with folder.locked(), claimed(folder, print), on_record(folder.path):
        driver.train(config, lambda folder, note: planned(config, folder, note))


def planned(config: Config, folder: RunFolder, note: Callable[[str], None]) -> Deployment:
    """The deployment of a run that begins, with its memory planned, on record and told."""
    deployment = deploy(config, folder, note)
    if isinstance(deployment, RayDeployment):
        size = model_size(config)
        deployment.memory.plan(memory_plan(config, size))
        note(describe_memory(config, size))
    return deployment


def replay(run: str, stage: str, step: int) -> bool:
    """Runs a recorded step of a PPO stage again; whether it came out as recorded."""
    folder, config = open_existing(run)
    folder.store.pull(folder.path)
    return replay_step(config, folder, stage, step, lambda copy, note: deploy(config, copy, note))


@contextmanager
def opened(run: str) -> Iterator[RunContext]:
    """A finished or running run with its deployment, for using its models: nothing of the run is changed, and the
    deployment is closed at the end."""
    folder, config = open_existing(run)
    quiet = config.tracking.model_copy(update={"wandb": False, "console": "plain"})
    tracker = Tracker(folder.path, quiet, {})
    deployment = deploy(config, folder, tracker.note, ("rollout", "reward"))
    try:
        yield RunContext(config, folder, deployment, tracker)
    finally:
        deployment.close()


def deploy(
    config: Config, folder: RunFolder, note: Callable[[str], None], roles: Sequence[str] | None = None
) -> Deployment:
    """The configured deployment for a run folder; `note` tells the user what happens to it. `roles`: those that will be
    needed, None: all of the configured method."""
    data = folder.stage("data")

    def eos() -> int:
        return Renderer.load(data / "renderer").eos

    if config.actors.deployment == "in_process":
        return InProcess(config, folder.store, folder.base, data / "renderer", eos)
    model = EngineModel(folder.base, eos, longest_sequence(config))
    return RayDeployment(config, folder, model, data / "renderer", note, roles)


def check(config: Config) -> FoundData | None:
    """Refuses what cannot run on any machine, before a process starts or a model is loaded; what it found of the data,
    None where the run has its own already."""
    folder = store_of(config.run).root
    try:
        above = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise ConfigError(f"run: '{short(folder, LINE)}' cannot be a run folder: {error.strerror}") from error
    if not above.is_dir() or "\0" in config.run:
        raise ConfigError(f"run: '{short(folder, LINE)}' cannot be a run folder: {above} is no folder")
    check_method(config)
    check_model(config)
    renderer = None if config.model.from_scratch is not None else base_renderer(config)
    check_ready(config, renderer, longest_sequence(config))
    check_adapters(config)
    if any(folder.glob("stages/*-data/done.json")):
        return None
    return check_data(config, renderer)


def check_model(config: Config) -> None:
    """ConfigError or DataError when the base model is no language model, too short, or one that vLLM cannot run."""
    if config.model.from_scratch is None and os.path.isdir(path := base_path(config)):
        weights(Path(path))
    limit = positions(config)
    need = longest_sequence(config)
    if limit is not None and need > limit:
        raise ConfigError(
            f"a sequence can take {need} tokens (data.lengths + sampling.max_new_tokens), the model has {limit} "
            "positions; lower data.lengths.*.max_tokens or sampling.max_new_tokens"
        )
    size = head_size(config)
    if config.actors.deployment == "ray" and not config.actors.rollout.gpus and size not in CPU_HEAD_SIZES:
        near = min(CPU_HEAD_SIZES, key=lambda known: abs(known - size))
        raise ConfigError(
            f"the model's attention heads have size {size} (hidden size / heads), and vLLM on CPUs takes "
            f"{', '.join(map(str, CPU_HEAD_SIZES))}; the nearest is {near}"
        )


def check_adapters(config: Config) -> None:
    """ConfigError when the base or a ready model lacks layers that are to have an adapter, or what is learned cannot
    get to the engines."""
    lora, trust = config.model.lora, config.model.trust_remote_code
    if lora is not None:
        how = config.actors.rollout.weight_sync
        if how == "ipc" or (how != "host" and lora.sync == "adapter"):
            raise ConfigError(
                f"model.lora.sync={lora.sync} with actors.rollout.weight_sync={how}: ipc reads the learner's own "
                "weights, where nothing is merged, and adapters go through host memory; use host, or nccl with merged"
            )
        ready = [architecture(path, trust) for path in config.ready.model_dump().values() if path]
        for shape in (_base_architecture(config), *ready):
            targeted(_empty(shape, trust), lora)


def head_size(config: Config) -> int:
    """Width of one attention head of the base model."""
    scratch = config.model.from_scratch
    if scratch is not None:
        return scratch.hidden_size // scratch.heads
    architecture = _model_config(config)
    size = getattr(architecture, "head_dim", None)
    return int(size or architecture.hidden_size // architecture.num_attention_heads)


def positions(config: Config) -> int | None:
    """The longest sequence the model takes; None when it does not say."""
    if config.model.from_scratch is not None:
        return config.model.from_scratch.max_position_embeddings
    return getattr(_model_config(config), "max_position_embeddings", None)


def model_size(config: Config) -> ModelSize:
    """The size of the base model, found without loading it."""
    model = _empty(_base_architecture(config), config.model.trust_remote_code)
    shape, lora = model.config.get_text_config(), config.model.lora
    return ModelSize(
        sum(p.numel() for p in model.parameters()), shape.num_hidden_layers, shape.hidden_size, shape.vocab_size,
        getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size,
        None if lora is None else adapter_parameters(model, lora),
    )  # fmt: skip


def _empty(shape: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """A model without its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape, trust_remote_code=trust_remote_code)


def _base_architecture(config: Config) -> PreTrainedConfig:
    scratch = config.model.from_scratch
    return _model_config(config) if scratch is None else llama_config(scratch, scratch.vocab_size)


def _model_config(config: Config) -> Any:
    try:
        return architecture(base_path(config), config.model.trust_remote_code)
    except DataError as error:
        raise ConfigError(f"model.path: {error}") from error


def describe(config: Config) -> str:
    """The resolved configuration, the data and the stages' steps, the actors and their memory, for `--dry-run`."""
    found = check(config)
    stages = [(name, stage.about) for stage in stages_of(config) for name in stage.names if name != "data"]
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    work = f"{outlook(config, found, stages)}\n" if found else ""
    return visible(f"{resolved}\n{work}{describe_plan(config, model_size(config))}")
