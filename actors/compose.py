"""The composition root: who plays the roles of a run, and the start and end of Ray around it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import yaml
from ray._private import ray_constants
from transformers import AutoModelForCausalLM

from actors.learner import LearnerActor, RayLearner, learner_environment
from actors.memory import ModelSize
from actors.placement import machine_resources, options, reserve
from actors.plan import describe_plan, plan_actors, require
from actors.processes import on_record
from actors.refs import RayRef
from actors.rollout import RayRolloutPool, RolloutActor
from actors.scorer import RayRecorder, RayReferenceScorer, RayScorer, RecorderActor, ScorerActor
from actors.train_jobs import run_jobs
from actors.weights import CPU_HEAD_SIZES, engine_environment
from pit_ray import driver
from pit_ray.config import Config
from pit_ray.data.templates import Renderer
from pit_ray.errors import LINE, ConfigError, DataError, short
from pit_ray.in_process import InProcess
from pit_ray.models.folder import architecture, weights
from pit_ray.models.load import llama_config
from pit_ray.replay import replay as replay_step
from pit_ray.roles import Deployment, FitJob
from pit_ray.run_folder import RunFolder, open_existing
from pit_ray.stages.data import base_path, base_renderer, check_data
from pit_ray.stages.outlook import FoundData, outlook
from pit_ray.stages.ready import check_ready
from pit_ray.tracking import visible

TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
"""Ray Train's controller otherwise notices the end of its workers only every two seconds."""
AUTH_MODES = ("token", "disabled")


def train(config: Config) -> None:
    """Runs the configured method to its report, resuming where the run folder stands."""
    check_machines(config)
    check(config)
    folder = RunFolder(config.run)
    with folder.locked(), on_record(folder.path):
        driver.train(config, lambda folder: deploy(config, folder))


def replay(run: Path, stage: str, step: int) -> bool:
    """Runs a recorded step of a PPO stage again; whether it came out as recorded."""
    folder, config = open_existing(run)
    return replay_step(config, folder, stage, step, lambda copy: deploy(config, copy))


def deploy(config: Config, folder: RunFolder) -> Deployment:
    """The configured deployment for a run folder."""
    data = folder.stage("data")

    def base() -> Path:
        return Path((data / "base.txt").read_text(encoding="utf-8").strip())

    def eos() -> int:
        return Renderer.load(data / "renderer").eos

    if config.actors.deployment == "in_process":
        return InProcess(config, base, data / "renderer", eos)
    return RayDeployment(config, folder, base, data / "renderer", eos)


def check(config: Config) -> FoundData | None:
    """Refuses what cannot run on any machine, before a process starts or a model is loaded; what it found of the data,
    None where the run has its own already."""
    folder = Path(config.run)
    try:
        above = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise ConfigError(f"run: '{short(folder, LINE)}' cannot be a run folder: {error.strerror}") from error
    if not above.is_dir() or "\0" in config.run:
        raise ConfigError(f"run: '{short(folder, LINE)}' cannot be a run folder: {above} is no folder")
    check_model(config)
    renderer = None if config.model.from_scratch is not None else base_renderer(config)
    check_ready(config, renderer, longest_sequence(config))
    if any(folder.glob("stages/*-data/done.json")):
        return None
    return check_data(config, renderer)


def check_machines(config: Config) -> None:
    """ConfigError when this machine lacks what a local Ray would have to give, or a cluster is to be joined without
    saying whether it wants a token."""
    if config.actors.deployment != "ray":
        return
    if ray_address(config) == "local":
        require(plan_actors(config), machine_resources(), "this machine")
    elif os.environ.get("RAY_AUTH_MODE") not in AUTH_MODES:
        raise ConfigError(
            "RAY_AUTH_MODE is not set, and without it chance decides whether the cluster asks for a token: export "
            "RAY_AUTH_MODE=token, here and before each ray start (disabled only where nobody else reaches its ports)"
        )


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


def longest_sequence(config: Config) -> int:
    """Tokens of the longest x ‖ draft ‖ bridge ‖ y that can occur."""
    lengths, new = config.data.lengths, config.sampling.max_new_tokens
    bridge = 16 + 2 * len(config.model.improve_instruction.split())
    return (
        lengths.prompt.max_tokens + max(lengths.draft.max_tokens, new) + bridge + max(lengths.response.max_tokens, new)
    )


def model_size(config: Config) -> ModelSize:
    """The size of the base model, found without loading it."""
    scratch = config.model.from_scratch
    architecture = _model_config(config) if scratch is None else llama_config(scratch, scratch.vocab_size)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
    shape = architecture.get_text_config()
    return ModelSize(
        sum(p.numel() for p in model.parameters()), shape.num_hidden_layers, shape.hidden_size, shape.vocab_size
    )


def _model_config(config: Config) -> Any:
    try:
        return architecture(base_path(config), config.model.trust_remote_code)
    except DataError as error:
        raise ConfigError(f"model.path: {error}") from error


def describe(config: Config) -> str:
    """The resolved configuration, the data and the stages' steps, the actors and their memory, for `--dry-run`."""
    found = check(config)
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    work = f"{outlook(config, found)}\n" if found else ""
    return visible(f"{resolved}\n{work}{describe_plan(config, model_size(config))}")


def ray_address(config: Config) -> str:
    """The Ray to use: local, auto (the one that RAY_ADDRESS names), or an address."""
    address = config.actors.address
    return "local" if address == "auto" and not os.environ.get("RAY_ADDRESS") else address


def start_ray(config: Config) -> None:
    """Joins the cluster this job was submitted to, or starts a fresh Ray on the loopback interface."""
    if ray.is_initialized():
        return
    check_machines(config)
    options: dict[str, Any] = {"namespace": f"pit-ray-{Path(config.run).name}", "log_to_driver": False}
    options["logging_level"] = logging.WARNING
    address, environment = ray_address(config), dict(TRAIN_ENVIRONMENT)
    if address == "local":
        os.environ.pop("RAY_ADDRESS", None)
        keep_to_loopback()
        environment["GLOO_SOCKET_IFNAME"] = "lo"
        options |= {"dashboard_host": "127.0.0.1", "include_dashboard": True}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, runtime_env={"env_vars": environment}, **options)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which leaves no time for a checkpoint


def keep_to_loopback() -> None:
    """Lets a local Ray listen on the loopback interface alone. Given 127.0.0.1 as its address, Ray replaces it by that
    of the network and listens everywhere; this switch, which it sets itself on macOS and Windows, keeps it."""
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for Ray's own processes
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has read the environment
    if os.environ.get("RAY_AUTH_MODE") not in AUTH_MODES:
        # One user, no network: a token would leave a file behind that later commands trip over.
        os.environ["RAY_AUTH_MODE"] = "disabled"


class RayDeployment:
    """Ray actors for every role, placed by the plan, started together on first use and kept; Ray itself starts when
    first needed, so that what is wrong with the data is said before."""

    def __init__(
        self, config: Config, folder: RunFolder, base: Callable[[], Path], renderer: Path, eos: Callable[[], int]
    ) -> None:
        self.config, self.folder, self.renderer = config, folder, renderer
        self.base, self.eos = base, eos
        self.plan = plan_actors(config)
        self.actors: dict[str, list[Any]] = {}
        self.deadline = config.actors.call_deadline

    def fit(self, jobs: Sequence[FitJob]) -> RayRef[None]:
        start_ray(self.config)
        part = run_jobs.remote(self.config, jobs, self.folder.path / "ray_train")
        return RayRef([part], f"training {', '.join(job.stage for job in jobs)}", self.deadline)

    def rollout(self) -> RayRolloutPool:
        return RayRolloutPool(self._role("rollout"), self.deadline)

    def reward(self) -> RayScorer:
        return RayScorer(self._role("reward"), self.deadline)

    def reference(self) -> RayReferenceScorer:
        return RayReferenceScorer(self._role("reference"), self.deadline)

    def learner(self) -> RayLearner:
        return RayLearner(self._role("learner"), self.deadline)

    def recorder(self) -> RayRecorder:
        return RayRecorder(self._role("recorder")[0], self.deadline)

    def close(self) -> None:
        """Ends the actors and leaves Ray; a local Ray ends with it."""
        for actor in [a for group in self.actors.values() for a in group]:
            ray.kill(actor)
        ray.shutdown()

    def _role(self, role: str) -> list[Any]:
        if not self.actors:
            self._start()
        return self.actors[role]

    def _start(self) -> None:
        """All actors at once, so that their slow imports and engines overlap."""
        start_ray(self.config)
        actors = self.config.actors
        group = reserve(self.plan, actors.placement_deadline)
        scorer_env = {"OMP_NUM_THREADS": str(actors.scorer.threads), "TOKENIZERS_PARALLELISM": "false"}

        def start(role: str, kind: Any, environment: dict[str, str], *args: Any) -> list[Any]:
            return [
                kind.options(**options(self.plan, group, i, environment)).remote(self.plan.bundles[i], *args)
                for i in self.plan.of(role)
            ]

        engine_args = (self.base(), self.config, self.eos(), longest_sequence(self.config))
        rollout = start("rollout", RolloutActor, engine_environment(actors.rollout), *engine_args)
        learner = start("learner", LearnerActor, learner_environment(actors.learner), actors.learner)
        reward = start("reward", ScorerActor, scorer_env, self.config)
        reference = start("reference", ScorerActor, scorer_env, self.config)
        recorder = start("recorder", RecorderActor, scorer_env, self.renderer, self.config.data.source)
        host, port = RayRef[tuple[str, int]]([learner[0].address.remote()], "learner: address", self.deadline).result()
        joined = RayRef[None]([rank.join.remote(host, port) for rank in learner], "learner: join", self.deadline)
        waiting = [a.ready.remote() for a in (*rollout, *reward, *reference, *recorder)]
        joined.result()
        RayRef(waiting, "starting the actors", self.deadline).result()
        self.actors = {
            "rollout": rollout, "learner": learner, "reward": reward, "reference": reference, "recorder": recorder,
        }  # fmt: skip
