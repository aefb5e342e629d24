"""Stage `evaluate`: the improver, and what it must beat, on held-out prompts; writes evaluation/summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pit_ray.curriculum import POLICY, with_drafts
from pit_ray.data.parquet import write_table
from pit_ray.errors import ConfigError
from pit_ray.evaluate.contests import compared, improver, scores_table
from pit_ray.evaluate.evaluation_folder import write_summary
from pit_ray.evaluate.gap_reward import GapMeasure, PairScores, eq1_order, gap_measures
from pit_ray.evaluate.systems import Origin, System, health, picked
from pit_ray.improve import choose_margin, kept_revisions
from pit_ray.improvers.drafts import DraftImprover, GapModel
from pit_ray.improvers.interface import Round, improve
from pit_ray.records import Pairs, Ragged
from pit_ray.roles import Resolved
from pit_ray.run_folder import write_json
from pit_ray.scoring import as_rollouts
from pit_ray.stages.contest import answers_table, origin_of
from pit_ray.stages.context import RunContext
from pit_ray.stages.judged import JudgedSplit, RunEngines
from pit_ray.tracking import read_metrics

KL_STEPS = 5
"""A stage's KL is the mean over so many of its last steps."""


def run(context: RunContext) -> None:
    """Samples, judges, compares; the stopping rule's margin is chosen on validation prompts alone."""
    context.tracker.begin("evaluate", 0)
    engines = RunEngines(context)
    held_out, validation = Evaluated(context, "held_out", engines), Evaluated(context, "validation", engines)
    iterations = context.config.evaluation.iterations
    written, rounds, tuned, tuned_gaps = sampled(context, held_out, validation)
    gaps = [r.score for r in rounds[1:]]
    # The scorers still hold the gap model; R_P comes after.
    labelled = held_out.labelled_pairs()
    revised = held_out.pair_scores(written["improver_1"].responses, written["policy"].responses)
    margin = choose_margin(tuned_gaps, [validation.rewards(responses) for responses in tuned])
    kept = kept_revisions(gaps, margin)
    systems = all_systems(held_out, written, kept, iterations)
    scores = {name: system.scores for name, system in systems.items()}
    measures = gap_measures(context.config.gap_reward.variant, labelled, revised, scores)
    folder = context.folder.path / "evaluation"
    write_table(scores_table(held_out.pairs.uid, systems), folder / "outcomes.parquet")
    write_table(answers_table(held_out, systems), folder / "answers.parquet")
    write_json(folder / "samples.json", samples(held_out, systems, gaps, kept))
    write_summary(folder, summary(context, systems, labelled, measures, margin))


def sampled(
    context: RunContext, held_out: Evaluated, validation: Evaluated
) -> tuple[dict[str, System], list[Round], list[Ragged], list[np.ndarray]]:
    """What the models write, model by model, so that each is loaded once: the systems on held-out prompts and the
    improver's rounds; on validation prompts what stands after 0, 1, … revisions, and each round's gaps."""
    iterations = context.config.evaluation.iterations
    written = {"sft_policy": held_out.answers("sft_policy")}
    written |= {"policy": held_out.answers("ppo_policy"), "second": held_out.answers("ppo_policy", "second")}
    tuned = validation.answers("ppo_policy").responses
    drafts = written["policy"].responses
    by_sft = held_out.revisions("sft_improver", drafts, 1)
    origin = origin_of("sft", "policy", drafts, by_sft, False)
    written["sft_improver"] = System(by_sft[1].responses, by_sft[1].finished, drafts, origin=origin)
    rounds = held_out.revisions("ppo_improver", drafts, iterations)
    for k in range(1, iterations + 1):
        origin = origin_of("pit", "policy", drafts, rounds[: k + 1], False)
        before = rounds[k - 1].responses
        written[improver(k, iterations)] = System(rounds[k].responses, rounds[k].finished, before, origin=origin)
    tuned_rounds = validation.revisions("ppo_improver", tuned, iterations)
    return written, rounds, [r.responses for r in tuned_rounds], [r.score for r in tuned_rounds[1:]]


def all_systems(
    held_out: Evaluated, written: dict[str, System], kept: np.ndarray, iterations: int
) -> dict[str, System]:
    """Everything that is compared, judged: the data's y_w and y_l, what models wrote, and choices among that."""
    data = {"chosen": System(held_out.pairs.chosen), "rejected": System(held_out.pairs.rejected)}
    systems = held_out.judged(data | written)
    policy, second = systems["policy"], systems.pop("second")
    best = picked([policy, second], second.scores["reward"] > policy.scores["reward"], None)
    systems["best_of_2"] = replace(best, origin=best_of_2(held_out, policy, second))
    rounds = [policy, *(systems[improver(k, iterations)] for k in range(1, iterations + 1))]
    for k in range(1, iterations + 1):
        origin = systems[improver(k, iterations)].origin
        assert origin is not None
        stopped = picked(rounds, np.minimum(kept, k), policy.responses)
        ruled = origin.model_copy(update={"stopping_rule": True})
        systems[improver(k, iterations, True)] = replace(stopped, origin=ruled)
    return systems


def best_of_2(held_out: Evaluated, policy: System, second: System) -> Origin:
    """What the choice among two samples took: R_P reads both."""
    tokens = float((policy.responses.lengths + second.responses.lengths).mean())
    read = tokens + 2 * float(held_out.prompts.prompt.lengths.mean())
    return Origin(
        improver="best_of_n", drafts="policy", iteration=1, calls=2, tokens=tokens, scorer_calls=2, scorer_tokens=read
    )


def margin_of(context: RunContext) -> float:
    """The stopping rule's margin, as the evaluation of the run chose it; ConfigError while it has not."""
    path = context.folder.path / "evaluation" / "summary.json"
    if not path.is_file():
        raise ConfigError(
            f"{context.config.run}: stage evaluate, which chooses when to stop, is not finished; finish it with "
            "pit-ray train and the same run folder, or give --iterations"
        )
    return float(json.loads(path.read_text(encoding="utf-8"))["margin"])


@dataclass(frozen=True)
class Evaluated(JudgedSplit):
    """A split of preference pairs."""

    @cached_property
    def pairs(self) -> Pairs:
        return self.context.pairs(self.split)

    def revisions(self, stage: str, drafts: Ragged, iterations: int) -> list[Round]:
        """The drafts by the policy, then what a stage's improver makes of them."""
        context = self.context
        context.tracker.note(f"evaluate: {stage} revises the policy's answers to {len(drafts)} {self.split} prompts")
        request = context.request("evaluate", stage, self.split, temperature=context.config.evaluation.temperature)
        gap = GapModel(context.gap_model(), context.gap_kind())
        by = DraftImprover(stage, self.engines, context.model(stage), context.renderer.bridge, gap)
        return improve(by, self.prompts, drafts, iterations, request)

    def pair_scores(self, first: Ragged, second: Ragged) -> PairScores:
        """r^{ab} of two responses to every prompt."""
        (r12, r22), (r21, r11) = self._against(first, second), self._against(second, first)
        return PairScores(r12, r21, r11, r22)

    def labelled_pairs(self) -> PairScores:
        """r^{ab} of y_w and y_l."""
        chosen, rejected = self.pairs.drafts("chosen"), self.pairs.drafts("rejected")
        (wl, ll), (lw, ww) = self._against(self.pairs.chosen, rejected), self._against(self.pairs.rejected, chosen)
        return PairScores(wl, lw, ww, ll)

    def _against(self, response: Ragged, draft: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """R(x, response, draft) and R(x, draft, draft)."""
        prompts = with_drafts(self.prompts, draft, POLICY, self.context.renderer.bridge)
        rollouts = as_rollouts(prompts, response, self.context.renderer.eos)
        scorer = self.engines.scorer(self.context.gap_model(), self.context.gap_kind())
        found = scorer.score(Resolved(rollouts)).result()
        if self.context.gap_kind() == "difference":  # R_P(x, y_a) − R_P(x, y_b): nothing to add back, and r^{aa} = 0
            return found.score, np.zeros_like(found.score)
        return found.score + found.baseline, found.baseline


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
        "systems": {n: system.origin.model_dump(mode="json") for n, system in systems.items() if system.origin},
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
