"""Stage `evaluate`: the improver, and what it must beat, on held-out prompts; writes evaluation/summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pit_ray.curriculum import CHOSEN, POLICY, plain_prompts, with_drafts
from pit_ray.data.randomness import derive_seed
from pit_ray.data.worlds import find_world
from pit_ray.evaluate.comparisons import Comparison, compare
from pit_ray.improve import Revisions, choose_margin, kept_revisions, revise, without_end
from pit_ray.records import Pairs, Prompts, Ragged
from pit_ray.roles import Resolved
from pit_ray.run_folder import write_json
from pit_ray.scoring import as_rollouts
from pit_ray.stages.context import RunContext

Scores = dict[str, np.ndarray]
"""judge -> (n,) scores."""


@dataclass(frozen=True)
class Written:
    """What the models wrote for one split: drafts[0] by the policy, drafts[k] after k revisions."""

    prompts: Prompts
    drafts: list[Ragged]
    gaps: list[np.ndarray]


def run(context: RunContext) -> None:
    """Samples, judges, compares; the stopping rule's margin is chosen on validation prompts alone."""
    evaluation = Evaluation(context)
    context.tracker.begin("evaluate", 0)
    held_out, validation = context.pairs("held_out"), context.pairs("validation")
    sft_drafts = evaluation.responses(held_out, "sft_policy", "held_out")
    ours, tuning = evaluation.improved(held_out, "held_out"), evaluation.improved(validation, "validation")
    sft_improver = evaluation.revisions(ours.prompts, "sft_improver", 1, "held_out")
    gap_reward = gap_order(context, held_out)
    context.deployment.reward().load(context.model("reward"), "reward", context.renderer.eos).result()
    margin = choose_margin(tuning.gaps, [evaluation.judge(tuning.prompts, d)["reward"] for d in tuning.drafts])
    judged = [evaluation.judge(ours.prompts, drafts) for drafts in ours.drafts]
    kept = kept_revisions(ours.gaps, margin)
    stopped = {judge: _at(kept, [scores[judge] for scores in judged]) for judge in judged[0]}
    iterations = len(judged) - 1
    compared = [
        evaluation.compared("improver_vs_policy", k, False, judged[k], judged[0]) for k in range(1, iterations + 1)
    ]
    compared.append(evaluation.compared("improver_vs_policy", iterations, True, stopped, judged[0]))
    by_sft = evaluation.judge(ours.prompts, sft_improver[0].responses)
    compared.append(evaluation.compared("sft_improver_vs_policy", 1, False, by_sft, judged[0]))
    sft_scores = evaluation.judge(ours.prompts, sft_drafts)
    compared.append(evaluation.compared("policy_vs_sft_policy", 0, False, judged[0], sft_scores))
    summary = {
        "world": context.config.data.source.removeprefix("world:") if evaluation.world else None,
        "seed": context.config.seed,
        "comparisons": [c.model_dump(mode="json") for group in compared for c in group],
        "gap_reward": gap_reward,
        "margin": margin,
        "means": means(context, held_out, evaluation, judged, sft_scores, by_sft, stopped),
        "seconds": {},
    }
    folder = context.folder.path / "evaluation"
    write_json(folder / "summary.json", summary)
    write_json(folder / "samples.json", samples(context, ours, judged, kept))


def margin_of(context: RunContext) -> float:
    """The stopping rule's margin, as the evaluation of the run chose it."""
    path = context.folder.path / "evaluation" / "summary.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["margin"])


@dataclass(frozen=True)
class Evaluation:
    """Sampling and judging for one run."""

    context: RunContext

    @cached_property
    def world(self):
        return find_world(self.context.config.data.source)

    def responses(self, pairs: Pairs, stage: str, split: str) -> Ragged:
        """What a stage's policy writes for the pairs' prompts."""
        context, rollout = self.context, self.context.deployment.rollout()
        context.tracker.note(f"evaluate: {stage} answers {len(pairs)} {split} prompts")
        rollout.load(context.model(stage), 0).result()
        request = context.request("evaluate", stage, temperature=context.config.evaluation.temperature)
        prompts = plain_prompts(pairs, np.arange(len(pairs)), 0)
        return without_end(rollout.generate(prompts, request).result())

    def revisions(self, prompts: Prompts, stage: str, iterations: int, split: str) -> list[Revisions]:
        """What a stage's improver makes of the prompts' drafts, with gaps."""
        context, rollout, gap = self.context, self.context.deployment.rollout(), self.context.deployment.reward()
        context.tracker.note(f"evaluate: {stage} revises the policy's answers to {len(prompts)} {split} prompts")
        gap.load(context.gap_model(), context.gap_kind(), context.renderer.eos).result()
        rollout.load(context.model(stage), 0).result()
        request = context.request("evaluate", stage, split, temperature=context.config.evaluation.temperature)
        return revise(rollout, gap, prompts, iterations, request)

    def improved(self, pairs: Pairs, split: str) -> Written:
        """The tuned policy's responses and the improver's revisions of them."""
        drafts = self.responses(pairs, "ppo_policy", split)
        plain = plain_prompts(pairs, np.arange(len(pairs)), 0)
        prompts = with_drafts(plain, drafts, POLICY, self.context.renderer.bridge)
        rounds = self.revisions(prompts, "ppo_improver", self.context.config.evaluation.iterations, split)
        return Written(prompts, [drafts, *(r.responses for r in rounds)], [r.gaps for r in rounds])

    def judge(self, prompts: Prompts, responses: Ragged) -> Scores:
        """`reward` anywhere (R_P must be loaded), `gold` in a world."""
        rollouts = as_rollouts(replace(prompts, bridge=None), responses, self.context.renderer.eos)
        scores = {"reward": self.context.deployment.reward().score(Resolved(rollouts)).result().score}
        if self.world is not None:
            text = self.context.renderer.text
            rows = zip(prompts.prompt.rows(), responses.rows(), strict=True)
            scores["gold"] = np.array([self.world.gold(text(x), text(y)) for x, y in rows])
        return scores

    def compared(self, name: str, iterations: int, stopping: bool, ours: Scores, theirs: Scores) -> list[Comparison]:
        """One comparison a judge."""
        config = self.context.config
        seed = derive_seed(config.seed, "bootstrap", name, iterations, int(stopping))
        resamples = config.evaluation.bootstrap
        return [compare(name, j, iterations, stopping, ours[j], theirs[j], resamples, seed) for j in sorted(ours)]


def gap_order(context: RunContext, pairs: Pairs) -> dict[str, float]:
    """How far the gap reward model keeps Eq. 1's order on annotated pairs that it never saw.

    accuracy: share with r^{wl} > r^{lw}; order_holds: share with r^{wl} > max(r^{ww}, r^{ll}) and
    min(r^{ww}, r^{ll}) > r^{lw}. The gap model must be loaded in the reward scorer.
    """
    scorer, eos = context.deployment.reward(), context.renderer.eos
    plain = plain_prompts(pairs, np.arange(len(pairs)), 0)

    def both(response: Ragged, draft: Ragged) -> tuple[np.ndarray, np.ndarray]:
        prompts = with_drafts(plain, draft, CHOSEN, context.renderer.bridge)
        scores = scorer.score(Resolved(as_rollouts(prompts, response, eos))).result()
        if context.gap_kind() == "difference":  # R_P(x, y_a) − R_P(x, y_b): nothing to add back, and r^{aa} = 0
            return scores.score, np.zeros_like(scores.score)
        return scores.score + scores.baseline, scores.baseline

    wl, ll = both(pairs.chosen, pairs.drafts("rejected"))
    lw, ww = both(pairs.rejected, pairs.drafts("chosen"))
    holds = (wl > np.maximum(ww, ll)) & (np.minimum(ww, ll) > lw)
    return {"accuracy": float((wl > lw).mean()), "order_holds": float(holds.mean()), "n": len(pairs)}


def means(context, pairs: Pairs, evaluation: Evaluation, judged, sft: Scores, by_sft: Scores, stopped: Scores):
    """Mean score by judge of every system, and of the data's own y_w and y_l."""
    plain = plain_prompts(pairs, np.arange(len(pairs)), 0)
    systems = {
        "chosen": evaluation.judge(plain, pairs.chosen),
        "rejected": evaluation.judge(plain, pairs.rejected),
        "sft_policy": sft,
        "policy": judged[0],
        "sft_improver": by_sft,
        **{f"improver_{k}": scores for k, scores in enumerate(judged) if k},
        "improver_stopped": stopped,
    }
    return {name: {judge: float(s.mean()) for judge, s in scores.items()} for name, scores in systems.items()}


def samples(context: RunContext, ours: Written, judged: list[Scores], kept: np.ndarray) -> list[dict]:
    """Before/after samples for people, taken evenly from the held-out prompts."""
    text, count = context.renderer.text, min(context.config.evaluation.examples, len(kept))
    golds = [scores.get("gold") for scores in judged]
    return [
        {
            "prompt": text(ours.prompts.prompt[i]),
            "draft": text(ours.drafts[0][i]),
            "revisions": [text(d[i]) for d in ours.drafts[1:]],
            "gaps": [float(g[i]) for g in ours.gaps],
            "golds": [float(g[i]) for g in golds if g is not None] or None,
            "kept": int(kept[i]),
        }
        for i in np.linspace(0, len(kept) - 1, count).astype(int)
    ]


def _at(kept: np.ndarray, scores: list[np.ndarray]) -> np.ndarray:
    return np.stack(scores, axis=1)[np.arange(len(kept)), kept]
