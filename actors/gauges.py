"""A run's numbers for Prometheus, through Ray's own metrics: what the dashboard of clusters/grafana.json shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

TAGS = ("run", "stage")
STEP = {
    "objective/gap": ("pit_ray_gap", "Mean gap of the step's revisions, by the gap reward model."),
    "objective/score": ("pit_ray_score", "Mean score of the step's responses, by the reward model in use."),
    "objective/gold": ("pit_ray_gold", "Mean gold score of the step's responses, in a world."),
    "objective/kl": ("pit_ray_kl", "Mean KL to the reference policy, nats per response."),
    "objective/entropy": ("pit_ray_entropy", "Mean entropy of the policy, nats per token."),
    "policy/clipfrac_avg": ("pit_ray_clip_fraction", "Share of tokens whose ratio was clipped."),
    "val/response_length": ("pit_ray_response_length", "Mean response length, tokens."),
}
PARTS = ("prompts", "generate", "score", "learn", "sync")
SPEEDS = {"rollout": "time/generate", "scorer": "time/score", "learner": "time/learn"}
"""Role -> the part of a step in which it handles the step's new tokens."""


class Gauges:
    """The metrics of one run, from its driver's process; Ray must be running."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.values = {name: Gauge(*described, tag_keys=TAGS) for name, described in STEP.items()}
        self.seconds = Gauge("pit_ray_part_seconds", "Seconds of a part of the step.", tag_keys=(*TAGS, "part"))
        self.speed = Gauge("pit_ray_tokens_per_second", "New tokens a second, by role.", tag_keys=(*TAGS, "role"))
        self.waiting = Gauge("pit_ray_calls", "Calls that a role has still to answer.", tag_keys=("run", "role"))
        self.lag = Gauge("pit_ray_policy_lag", "Steps that the weights that sampled are behind.", tag_keys=TAGS)
        self.steps = Counter("pit_ray_steps", "Steps done by this driver.", tag_keys=TAGS)
        self.restarts = Counter("pit_ray_restarts", "Actors that were replaced.", tag_keys=("run", "role"))

    def step(self, values: Mapping[str, Any]) -> None:
        """A step is done; `values` are its record in metrics.jsonl."""
        tags = {"run": self.run, "stage": values["stage"]}
        for name, gauge in self.values.items():
            if values.get(name) is not None:
                gauge.set(values[name], tags)
        for part in PARTS:
            if f"time/{part}" in values:
                self.seconds.set(values[f"time/{part}"], tags | {"part": part})
        tokens = values.get("time/tokens_per_second", 0.0) * values.get("time/generate", 0.0)
        for role, part in SPEEDS.items():
            if values.get(part):
                self.speed.set(tokens / values[part], tags | {"role": role})
        if "val/policy_version" in values:
            self.lag.set(values["step"] - values["val/policy_version"], tags)
        self.steps.inc(1.0, tags)

    def calls(self, role: str, unanswered: int) -> None:
        self.waiting.set(unanswered, {"run": self.run, "role": role})

    def restarted(self, role: str) -> None:
        self.restarts.inc(1.0, {"run": self.run, "role": role})
