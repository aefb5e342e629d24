"""Stages `ppo_policy` and `ppo_improver`: the curriculum, phase by phase (PIT, arXiv 2310.00898, Eq. 3 to 5)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from pit_ray.canary import canary
from pit_ray.checkpoint import MANIFEST
from pit_ray.config.training import Phase
from pit_ray.curriculum import PpoState, controller, ended
from pit_ray.data.randomness import derive_seed
from pit_ray.errors import TrainingError
from pit_ray.metrics import Metrics
from pit_ray.roles import LearnerSpec
from pit_ray.run_folder import CHECKPOINTS, write_json
from pit_ray.stages.context import RunContext
from pit_ray.stages.ppo_stage import PpoStage, Sampled, sync
from pit_ray.stages.stop import LearnBatch, past_limits, save_stop
from pit_ray.stages.stream import EARLY, RolloutStream, read_early, write_early


def run(context: RunContext, name: str) -> None:
    """Runs the stage from its last checkpoint to its written model."""
    policy = name == "ppo_policy"
    ppo = context.config.ppo_policy if policy else context.config.ppo_improver
    start = context.model("sft_policy" if policy else "sft_improver")
    scored_by = context.model("reward") if policy else context.gap_model()
    total = sum(phase.steps for phase in ppo.phases)
    deployment, pairs = context.deployment, context.pairs("rl")
    stage = PpoStage(
        context, name, ppo, pairs, canary(pairs, context.renderer.eos), deployment.rollout(), deployment.reward(),
        deployment.reference(), deployment.learner(), deployment.recorder(),
    )  # fmt: skip
    state, resume = last_checkpoint(stage)
    spec = LearnerSpec(
        policy=start,
        value=scored_by,
        renderer=context.renderer_folder,
        ppo=ppo,
        dtype=context.config.model.dtype,
        total_steps=total,
        seed=derive_seed(context.config.seed, name),
        trust_remote_code=context.config.model.trust_remote_code,
        store=context.folder.store,
        lora=context.config.model.lora,
        trace=context.folder.profile(f"{name}.json.gz") if context.config.tracking.profile else None,
    )
    loading = [
        stage.learner.start(spec, resume),
        stage.reward.load(scored_by, "reward" if policy else context.gap_kind(), context.renderer.eos),
        stage.reference.load(start),
    ]
    for ref in loading:
        ref.result()
    context.tracker.begin(name, total)
    context.tracker.rewind(name, state.step)
    sync(stage, state.step)
    stage.reached = state
    stage.saved = state if resume is not None else None
    if resume is not None and (early := read_early(resume.parent)):
        stage.early[state.step] = early
    try:
        while state.phase < len(ppo.phases):
            state = run_phase(stage, ppo.phases[state.phase], state)
            context.interrupts.hold()
            following = state.next_phase()
            save(stage, following, state)
            state = stage.reached = following
            context.interrupts.release()
    except KeyboardInterrupt:
        if stage.reached is not stage.saved:  # to write it again would remove it first
            save(stage, stage.reached)
        context.tracker.note(f"{name}: interrupted, saved after step {stage.reached.step}")
        raise
    stage.learner.write_model(context.folder.model(name)).result()


def run_phase(stage: PpoStage, phase: Phase, state: PpoState) -> PpoState:
    """One phase of the curriculum: rollout, score, learn, sync, until it ends."""
    if phase.drafts == "self" and state.phase_step == 0:
        stage.learner.write_model(stage.folder / "phases" / phase.name).result()
    stream = RolloutStream(stage, phase)
    while (reason := ended(phase, state)) is None:
        started = time.monotonic()
        stage.seconds = {}
        with stage.timed("prompts"):
            sampled = stream.of(state)
        with stage.timed("generate"):
            sampled.rollouts.wait()
        with stage.timed("prompts"):
            stream.look_ahead(state)
        with stage.timed("score"):
            sampled.scores.wait()
            sampled.reference.wait()
        stage.context.interrupts.hold()  # a step that is being learned is finished; before that it is given up
        seed = derive_seed(stage.context.config.seed, stage.name, "learn", state.step)
        recorded = stage.recorder.record(record_path(stage, state), sampled.rollouts, sampled.scores)
        with stage.timed("learn"):
            metrics = learn(stage, state, sampled, seed)
        metrics |= recorded.result()  # before the weights change that would have to sample again what was lost
        kl = controller(stage.ppo.kl, state.kl_coefficient)
        kl = kl.updated(metrics.mean("objective/kl"), stage.ppo.rollouts_per_step)
        remembered = max(stage.ppo.checkpoint_every, 2 * (phase.end.plateau_steps or 0))
        state = state.advanced(metrics, kl.coefficient, remembered)
        with stage.timed("generate"):
            stream.settle(state)
        with stage.timed("sync"):
            metrics |= sync(stage, state.step)
        metrics |= timings(stage, metrics, time.monotonic() - started)
        stage.context.tracker.log(stage.name, phase.name, state.step - 1, metrics)
        if state.step % stage.ppo.checkpoint_every == 0 and ended(phase, state) is None:
            save(stage, state)
        stage.reached = state
        stage.context.interrupts.release()
    stage.early.clear()  # an end rule may have ended the phase before its last step
    stage.context.tracker.note(f"{stage.name}: phase {phase.name} ended after {state.phase_step} steps: {reason}")
    return state


def learn(stage: PpoStage, state: PpoState, sampled: Sampled, seed: int) -> Metrics:
    """The step's update. Where it fails, or passes a limit, its batch is saved and TrainingError names cause and place;
    nothing of the step is kept, so the last checkpoint is the last good one."""
    metrics, last = Metrics(), state.step
    try:
        given = sampled.rollouts, sampled.scores, sampled.reference
        metrics = stage.learner.learn(*given, state.kl_coefficient, seed).result()
        cause = past_limits(stage.ppo, metrics, state.entropy)
        last -= 1  # what passed a limit are the weights that the step began with
    except TrainingError as error:
        cause = str(error)
    if cause is None:
        return metrics
    batch = LearnBatch(
        sampled.rollouts.result(), sampled.scores.result(), sampled.reference.result(), state.kl_coefficient, seed
    )
    saved = save_stop(stage.folder, state.step, batch, cause, metrics)
    stage.context.folder.store.push(saved)
    good = checkpoint_until(stage.folder, last)
    raise TrainingError(
        f"{stage.name}, step {state.step}: {cause}. Its batch is in {saved}; last good checkpoint: {good or 'none'}; "
        f"to see it again: pit-ray replay {stage.context.folder.path} {state.step} --stage {stage.name}"
    )


def timings(stage: PpoStage, metrics: Metrics, seconds: float) -> Metrics:
    """time/*: seconds of the step and its parts, and the new tokens per second of generation."""
    parts = Metrics({f"time/{part}": (value, 1.0) for part, value in stage.seconds.items()})
    tokens = metrics.mean("val/response_length") * stage.ppo.rollouts_per_step
    sampling = seconds if stage.ppo.lag else max(stage.seconds["generate"], 1e-9)
    return parts | Metrics.of(time__step=seconds, time__tokens_per_second=tokens / sampling)


def record_path(stage: PpoStage, state: PpoState) -> Path | None:
    """rollouts/STAGE/step-NNNNNN of the run folder, at the steps that are recorded."""
    if state.step % stage.context.config.tracking.rollouts_every:
        return None
    return stage.context.folder.path / "rollouts" / stage.name / f"step-{state.step:06d}"


def save(stage: PpoStage, state: PpoState, steps: PpoState | None = None) -> None:
    """A checkpoint: learner/ and state.json to resume from, and the policy as model/.

    Its score is the mean score of the phase's steps since the last multiple of `checkpoint_every`; `steps` is the
    state that has them where `state` is already the next phase's.
    """
    steps = steps or state
    since = min(steps.phase_step, (steps.step - 1) % stage.ppo.checkpoint_every + 1)
    score = float(np.mean(steps.scores[-since:])) if since else None
    with stage.checkpoints.write(f"step-{state.step:06d}-{state.phase}", steps.phase, score) as folder:
        stage.learner.save(folder / "learner").result()
        stage.learner.write_model(folder / "model").result()
        write_early(stage, state.step, folder)
        write_json(folder / "state.json", state.plain())
        stage.context.folder.keep_records()  # the steps that are done with it
    stage.saved = state


def checkpoint_until(folder: Path, step: int) -> Path | None:
    """The stage's newest checkpoint with at most so many steps done."""
    found = sorted(path.parent for path in (folder / CHECKPOINTS).glob(f"step-*/{MANIFEST}"))
    return next((path for path in reversed(found) if int(path.name.split("-")[1]) <= step), None)


def last_checkpoint(stage: PpoStage) -> tuple[PpoState, Path | None]:
    """The newest sound checkpoint's state and learner folder; a fresh state where there is none."""
    newest = stage.checkpoints.newest(stage.context.tracker.note)
    if newest is None:
        return PpoState(kl_coefficient=stage.ppo.kl.coefficient), None
    for name in ("state.json", EARLY):
        stage.context.folder.store.pull(newest / name)
    return PpoState.of(json.loads((newest / "state.json").read_text())), newest / "learner"
