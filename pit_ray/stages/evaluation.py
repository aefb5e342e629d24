"""Stage `evaluate`: the improver, and what it must beat, on held-out prompts; writes evaluation/summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from pit_ray.curriculum import POLICY, plain_prompts, with_drafts
from pit_ray.data.parquet import write_table
from pit_ray.data.worlds import find_world
from pit_ray.data.worlds.slots import SlotWorld
from pit_ray.evaluate.contests import compared, improver, scores_table
from pit_ray.evaluate.gap_reward import GapMeasure, PairScores, eq1_order, gap_measures
from pit_ray.evaluate.systems import System, health, picked
from pit_ray.improve import Revisions, choose_margin, kept_revisions, revise, without_end
from pit_ray.records import Pairs, Prompts, Ragged
from pit_ray.roles import Resolved
from pit_ray.run_folder import write_json
from pit_ray.scoring import as_rollouts
from pit_ray.stages.context import RunContext
from pit_ray.tracking import read_metrics

KL_STEPS = 5
"""A stage's KL is the mean over so many of its last steps."""

Split = Literal["held_out", "validation"]


def run(context: RunContext) -> None:
    """Samples, judges, compares; the stopping rule's margin is chosen on validation prompts alone."""
    context.tracker.begin("evaluate", 0)
    held_out, validation = Evaluated(context, "held_out"), Evaluated(context, "validation")
    iterations = context.config.evaluation.iterations
    written, gaps, tuned, tuned_gaps = sampled(context, held_out, validation)
    # The gap model is still loaded.
    labelled = held_out.labelled_pairs()
    revised = held_out.pair_scores(written["improver_1"].responses, written["policy"].responses)
    context.deployment.reward().load(context.model("reward"), "reward", context.renderer.eos).result()
    margin = choose_margin(tuned_gaps, [validation.rewards(responses) for responses in tuned])
    kept = kept_revisions(gaps, margin)
    systems = all_systems(held_out, written, kept, iterations)
    scores = {name: system.scores for name, system in systems.items()}
    measures = gap_measures(context.config.gap_reward.variant, labelled, revised, scores)
    folder = context.folder.path / "evaluation"
    write_table(scores_table(held_out.pairs.uid, systems), folder / "outcomes.parquet")
    write_json(folder / "samples.json", samples(held_out, systems, gaps, kept))
    write_json(folder / "summary.json", summary(context, systems, labelled, measures, margin))


def sampled(
    context: RunContext, held_out: Evaluated, validation: Evaluated
) -> tuple[dict[str, System], list[np.ndarray], list[Ragged], list[np.ndarray]]:
    """What the models write, model by model, so that each is loaded once: the systems on held-out prompts and each
    round's gaps; on validation prompts what stands after 0, 1, … revisions, and each round's gaps."""
    iterations = context.config.evaluation.iterations
    sampler(context, "sft_policy")
    written = {"sft_policy": held_out.answers("sft_policy")}
    sampler(context, "ppo_policy")
    written |= {"policy": held_out.answers("ppo_policy"), "second": held_out.answers("ppo_policy", "second")}
    tuned = [validation.answers("ppo_policy").responses]
    context.deployment.reward().load(context.gap_model(), context.gap_kind(), context.renderer.eos).result()
    drafts = written["policy"].responses
    sampler(context, "sft_improver")
    (by_sft,) = held_out.revisions("sft_improver", drafts, 1)
    written["sft_improver"] = System(by_sft.responses, by_sft.finished, drafts)
    sampler(context, "ppo_improver")
    rounds = held_out.revisions("ppo_improver", drafts, iterations)
    for k, revised in enumerate(rounds, start=1):
        written[improver(k, iterations)] = System(revised.responses, revised.finished, drafts)
        drafts = revised.responses
    tuned_rounds = validation.revisions("ppo_improver", tuned[0], iterations)
    tuned += [r.responses for r in tuned_rounds]
    return written, [r.gaps for r in rounds], tuned, [r.gaps for r in tuned_rounds]


def sampler(context: RunContext, stage: str) -> None:
    """Gives the rollout workers a stage's model."""
    context.deployment.rollout().load(context.model(stage), 0).result()


def all_systems(
    held_out: Evaluated, written: dict[str, System], kept: np.ndarray, iterations: int
) -> dict[str, System]:
    """Everything that is compared, judged: the data's y_w and y_l, what models wrote, and choices among that."""
    data = {"chosen": System(held_out.pairs.chosen), "rejected": System(held_out.pairs.rejected)}
    systems = {name: held_out.judged(system) for name, system in (data | written).items()}
    policy, second = systems["policy"], systems.pop("second")
    systems["best_of_2"] = picked([policy, second], second.scores["reward"] > policy.scores["reward"], None)
    rounds = [policy, *(systems[improver(k, iterations)] for k in range(1, iterations + 1))]
    for k in range(1, iterations + 1):
        systems[improver(k, iterations, True)] = picked(rounds, np.minimum(kept, k), policy.responses)
    return systems


def margin_of(context: RunContext) -> float:
    """The stopping rule's margin, as the evaluation of the run chose it."""
    path = context.folder.path / "evaluation" / "summary.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["margin"])


@dataclass(frozen=True)
class Evaluated:
    """A split's prompts: sampling answers to them, and judging these."""

    context: RunContext
    split: Split

    @cached_property
    def pairs(self) -> Pairs:
        return self.context.pairs(self.split)

    @cached_property
    def prompts(self) -> Prompts:
        return plain_prompts(self.pairs, np.arange(len(self.pairs)), 0)

    @cached_property
    def asked(self) -> list[str]:
        return [self.context.renderer.text(row) for row in self.pairs.prompt.rows()]

    @cached_property
    def scored(self) -> dict[tuple[int, bytes], np.float32]:
        """(place, response) -> R_P, of what was asked for so far."""
        return {}

    @cached_property
    def world(self) -> SlotWorld | None:
        return find_world(self.context.config.data.source)

    def answers(self, stage: str, *purpose: str) -> System:
        """What a stage's policy writes, its model loaded; another `purpose` is another, independent sample."""
        context, rollout = self.context, self.context.deployment.rollout()
        again = f" ({', '.join(purpose)})" if purpose else ""
        context.tracker.note(f"evaluate: {stage} answers {len(self.pairs)} {self.split} prompts{again}")
        parts, temperature = (stage, self.split, *purpose), context.config.evaluation.temperature
        request = context.request("evaluate", *parts, temperature=temperature)
        found = rollout.generate(self.prompts, request).result()
        return System(without_end(found), found.finished)

    def revisions(self, stage: str, drafts: Ragged, iterations: int) -> list[Revisions]:
        """What a stage's improver makes of drafts by the policy; it and the gap model must be loaded."""
        context, rollout = self.context, self.context.deployment.rollout()
        context.tracker.note(f"evaluate: {stage} revises the policy's answers to {len(drafts)} {self.split} prompts")
        request = context.request("evaluate", stage, self.split, temperature=context.config.evaluation.temperature)
        prompts = with_drafts(self.prompts, drafts, POLICY, context.renderer.bridge)
        return revise(rollout, context.deployment.reward(), prompts, iterations, request)

    def pair_scores(self, first: Ragged, second: Ragged) -> PairScores:
        """r^{ab} of two responses to every prompt; the gap model must be loaded."""
        (r12, r22), (r21, r11) = self._against(first, second), self._against(second, first)
        return PairScores(r12, r21, r11, r22)

    def labelled_pairs(self) -> PairScores:
        """r^{ab} of y_w and y_l; the gap model must be loaded."""
        chosen, rejected = self.pairs.drafts("chosen"), self.pairs.drafts("rejected")
        (wl, ll), (lw, ww) = self._against(self.pairs.chosen, rejected), self._against(self.pairs.rejected, chosen)
        return PairScores(wl, lw, ww, ll)

    def _against(self, response: Ragged, draft: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """R(x, response, draft) and R(x, draft, draft)."""
        prompts = with_drafts(self.prompts, draft, POLICY, self.context.renderer.bridge)
        rollouts = as_rollouts(prompts, response, self.context.renderer.eos)
        found = self.context.deployment.reward().score(Resolved(rollouts)).result()
        if self.context.gap_kind() == "difference":  # R_P(x, y_a) − R_P(x, y_b): nothing to add back, and r^{aa} = 0
            return found.score, np.zeros_like(found.score)
        return found.score + found.baseline, found.baseline

    def rewards(self, responses: Ragged) -> np.ndarray:
        """(n,) R_P, which must be loaded. A text that several systems wrote is scored once: what else is in a batch
        moves a score by a rounding, and the same answer must tie with itself."""
        keys = [(i, row.tobytes()) for i, row in enumerate(responses.rows())]
        if new := [i for i, key in enumerate(keys) if key not in self.scored]:
            rollouts = as_rollouts(self.prompts.take(new), responses.take(new), self.context.renderer.eos)
            found = self.context.deployment.reward().score(Resolved(rollouts)).result().score
            self.scored.update((keys[i], score) for i, score in zip(new, found, strict=True))
        return np.array([self.scored[key] for key in keys])

    def judged(self, system: System) -> System:
        """With its scores: `reward` anywhere (R_P must be loaded), `gold` in a world."""
        scores = {"reward": self.rewards(system.responses)}
        if self.world is not None:
            rows = zip(self.asked, system.responses.rows(), strict=True)
            scores["gold"] = np.array([self.world.gold(x, self.context.renderer.text(y)) for x, y in rows])
        return replace(system, scores=scores)


def summary(
    context: RunContext, systems: dict[str, System], labelled: PairScores, measures: list[GapMeasure], margin: float
) -> dict:
    """The content of summary.json, but for the seconds."""
    config = context.config
    comparisons, controlled = compared(systems, config.evaluation.iterations, config.evaluation.bootstrap, config.seed)
    accuracy, order_holds = eq1_order(labelled)
    records = read_metrics(context.folder.path)
    world = config.data.source.removeprefix("world:") if "gold" in systems["policy"].scores else None
    return {
        "world": world,
        "seed": config.seed,
        "comparisons": [c.model_dump(mode="json") for c in comparisons],
        "length_controlled": [c.model_dump(mode="json") for c in controlled],
        "health": {name: health(system).model_dump(mode="json") for name, system in systems.items()},
        "gap_reward": {
            "accuracy": accuracy,
            "order_holds": order_holds,
            "n": len(labelled.r12),
            "measures": [m.model_dump(mode="json") for m in measures],
        },
        "kl": {stage: last_kl(records, stage) for stage in ("ppo_policy", "ppo_improver")},
        "margin": margin,
        "means": {n: {judge: float(s.mean()) for judge, s in system.scores.items()} for n, system in systems.items()},
        "seconds": {},
    }


def last_kl(records: list[dict], stage: str) -> float | None:
    """The mean `objective/kl` of a stage's last steps; None where it did not train in this run."""
    found = [r["objective/kl"] for r in records if r["stage"] == stage and r.get("objective/kl") is not None]
    return float(np.mean(found[-KL_STEPS:])) if found else None


def samples(held_out: Evaluated, systems: dict[str, System], gaps: list[np.ndarray], kept: np.ndarray) -> list[dict]:
    """Before/after samples for people, taken evenly from the held-out prompts."""
    text, evaluation = held_out.context.renderer.text, held_out.context.config.evaluation
    rounds = [systems["policy"], *(systems[improver(k, len(gaps))] for k in range(1, len(gaps) + 1))]
    return [
        {
            "prompt": held_out.asked[i],
            "draft": text(rounds[0].responses[i]),
            "revisions": [text(system.responses[i]) for system in rounds[1:]],
            "gaps": [float(g[i]) for g in gaps],
            "golds": [float(s.scores["gold"][i]) for s in rounds if "gold" in s.scores] or None,
            "kept": int(kept[i]),
        }
        for i in np.linspace(0, len(kept) - 1, min(evaluation.examples, len(kept))).astype(int)
    ]
