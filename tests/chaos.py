"""`make chaos`: kills every kind of process in every stage, starts the command again, and compares the results.

One run is left undisturbed. Then runs of the same recipe are killed at random moments, several times each, until they
reach their end; what they leave must equal the undisturbed run's to the bit. Exit code 1 when something differs, or
when fewer processes were killed than asked for.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pit_ray.run_folder import RunFolder
from pit_ray.tracking import read_metrics
from tests.disturbed import STAGES, Disturbed, differences

RECIPE = """
data: {source: "world:notes", pairs: 500, held_out: 24, validation: 16,
       lengths: {prompt: {max_tokens: 40}, draft: {max_tokens: 80}, response: {max_tokens: 80}}}
model: {path: "world:notes", improve_instruction: improve}
sampling: {max_new_tokens: 24}
sft: {batch_size: 20, checkpoint_every: 2, epochs: 2}
reward: {batch_size: 20, checkpoint_every: 2, epochs: 2}
gap_reward: {batch_size: 20, checkpoint_every: 2}
ppo_policy:
  phases: [{name: policy, drafts: none, steps: 6}]
  rollouts_per_step: 16
  shard_size: 8
  checkpoint_every: 2
ppo_improver:
  phases: [{name: annotated, drafts: annotated, steps: 4}, {name: on_policy, drafts: on_policy, steps: 4}]
  kl: {controller: adaptive, target: 0.1, horizon: 100}
  rollouts_per_step: 16
  shard_size: 8
  checkpoint_every: 2
evaluation: {iterations: 1, examples: 4}
tracking: {wandb: false}
actors:
  address: local
  rollout: {cpus: 0.25, threads: 1, kv_cache_gib: 0.1}
  scorer: {cpus: 0.2, threads: 1}
  learner: {ranks: 2, zero_stage: 2, cpus: 0.4, threads: 1}
"""
ACTORS = ("driver", "rollout", "reward", "reference", "learner")
VICTIMS = {
    "data": ("driver",),
    **dict.fromkeys(("sft_policy", "sft_improver", "reward", "gap_reward"), ("driver", "worker")),
    **dict.fromkeys(("ppo_policy", "ppo_improver"), (*ACTORS, "SIGTERM")),
    "evaluate": ACTORS,
}
A_RUN = 8
"""Most kills of one run."""
SETTLES = 15.0
"""Seconds after which a command that still runs has outlived the kill."""


@dataclass(frozen=True)
class Kill:
    """A process to kill, and afterwards how it went. The victim SIGTERM is the driver, which is only told to stop."""

    stage: str
    victim: str
    run: str = ""
    seconds: float = 0.0
    """After the stage went on in this start of the command."""
    step: int = 0
    """Steps of the stage that were done."""
    outcome: str = ""


def plan(kills: int, draw: random.Random) -> list[Kill]:
    """Every victim in every stage, in random order, again and again up to the number."""
    found: list[Kill] = []
    while len(found) < kills:
        once = [Kill(stage, victim) for stage, victims in VICTIMS.items() for victim in victims]
        draw.shuffle(once)
        found += once
    return found[:kills]


def victims_of(run: Disturbed, kill: Kill) -> list[psutil.Process]:
    return run.victims("driver" if kill.victim == "SIGTERM" else kill.victim)


def begun(run: Disturbed, kill: Kill) -> bool:
    """Whether the stage is at work in this start of the command, so that its victim exists."""
    if run.stage() != kill.stage or not victims_of(run, kill):
        return False
    if "worker" in VICTIMS[kill.stage]:
        return bool(run.victims("worker"))
    return kill.stage == "data" or f"\n{kill.stage}" in run.said


def disturb(run: Disturbed, kill: Kill, moment: float) -> Kill | None:
    """Kills the victim so many seconds after its stage went on; None when the stage was over before, or the command."""
    since = None
    while run.look():
        if run.done(kill.stage):
            return None
        if since is None and begun(run, kill):
            since = time.monotonic()
        if since is not None and time.monotonic() - since >= moment and (victims := victims_of(run, kill)):
            steps = sum(record["stage"] == kill.stage for record in read_metrics(run.run))
            victims[-1].send_signal(signal.SIGTERM if kill.victim == "SIGTERM" else signal.SIGKILL)
            return replace(kill, run=run.run.name, seconds=time.monotonic() - since, step=steps)
        time.sleep(0.1)
    return None


def outcome(run: Disturbed) -> str:
    """What became of the command, at the latest when the kill has settled."""
    deadline = time.monotonic() + SETTLES
    while time.monotonic() < deadline and run.look():
        time.sleep(0.1)
    code = run.driver.poll()
    if code is None:
        return "went on"
    said = [line for line in run.said.splitlines() if line.startswith("error: ")]
    return {0: "was at its end", -signal.SIGKILL: "killed"}.get(code, f"exit {code}: {' '.join(said)}")


def go(
    run: Disturbed, kills: list[Kill], lasts: dict[str, float], draw: random.Random
) -> tuple[list[Kill], list[Kill]]:
    """One run to its end through its kills; those that were made, and those whose stage was over before their moment.
    RuntimeError when it ends with anything but 0 undisturbed."""
    made: list[Kill] = []
    missed: list[Kill] = []
    todo = sorted(kills, key=lambda kill: STAGES.index(kill.stage))
    while True:
        run.start()
        disturbed = False
        while todo:
            kill = disturb(run, todo[0], draw.uniform(0, lasts[todo[0].stage]))
            if kill is not None:
                made.append(replace(kill, outcome=outcome(run)))
                show(made[-1])
                disturbed = True
                todo.pop(0)
            elif run.done(todo[0].stage):
                missed.append(todo.pop(0))
            if run.driver.poll() is not None:
                break
        code = run.end()
        if code == 0:
            return made, missed + todo
        if not disturbed:
            raise RuntimeError(f"{run.run} ended with {code} though nobody disturbed it:\n{run.said[-4000:]}")


def lengths(run: Path) -> dict[str, float]:
    """Seconds that each stage of a finished run was at work, without the start of its processes."""
    found = {stage: RunFolder(run).seconds(stage) or 0.0 for stage in STAGES}
    for stage in ("ppo_policy", "ppo_improver"):
        found[stage] = sum(record["time/step"] for record in read_metrics(run) if record["stage"] == stage)
    return found


def show(kill: Kill) -> None:
    where = f"{kill.seconds:5.1f} s, {kill.step:2} steps"
    print(f"{kill.run:8} {kill.stage:13} {kill.victim:10} {where}  {kill.outcome[:150]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=26)
    parser.add_argument("--seed", type=int, default=0, help="of the order and the moments of the kills")
    parser.add_argument("--minutes", type=float, default=45.0, help="no run is begun that would end after these")
    options = parser.parse_args()
    draw, began = random.Random(options.seed), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="pit-ray-chaos-"))
    recipe, calm = folder / "recipe.yaml", folder / "calm"
    recipe.write_text(RECIPE)
    print(f"undisturbed run in {calm}", flush=True)
    go(Disturbed(recipe, calm), [], {}, draw)
    lasts = lengths(calm)
    todo, made, wrong = plan(options.kills, draw), [], 0
    for number in range(1, options.kills + 1):
        taken, started = todo[:A_RUN], time.monotonic()
        run = Disturbed(recipe, folder / f"run-{number}")
        now, missed = go(run, taken, lasts, draw)
        made += now
        todo = todo[len(taken) :] + missed
        # A stage that was slow in the undisturbed run would be over before most of its moments. One that was killed
        # here went on from a checkpoint, so its time says nothing.
        killed = {kill.stage for kill in now}
        lasts |= {s: min(lasts[s], seconds) for s, seconds in lengths(run.run).items() if s not in killed}
        differ = differences(run.run, calm)
        wrong += bool(differ)
        print(f"{run.run.name}: {len(now)} kills; differs in: {', '.join(differ) or 'nothing'}", flush=True)
        ended = time.monotonic()
        if not todo or ended + (ended - started) > began + 60 * options.minutes:
            break
    minutes = (time.monotonic() - began) / 60
    print(f"{len(made)} of {options.kills} kills, {wrong} of {number} runs differ, {minutes:.0f} min; runs: {folder}")
    return 1 if wrong or len(made) < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
