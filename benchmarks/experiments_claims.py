"""What each experiment has to show, each with what was found, the target, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.experiments_runs import RESAMPLES, Finished, between, mean_over_seeds, pooled
from pit_ray.data.randomness import derive_seed
from pit_ray.data.worlds import find_world
from pit_ray.errors import DataError
from pit_ray.evaluate.comparisons import outcomes
from pit_ray.evaluate.pooling import Effect, pooled_difference

SELF_REFINE_TARGET = 16.4
"""PIT over Self-Refine on the paper's synthetic data (PIT, arXiv 2310.00898): +16.41, remembered; our target."""
TRIPOST_TARGET = 7.13
"""TriPosT's best gain (arXiv 2310.13522), in points."""
BEHIND = {
    "behind": "one step behind, weights capped at 2",
    "behind_capped": "one step behind, weights capped at 1",
    "behind_longer": "one step behind for as long, weights capped at 2",
}
"""Variant -> what it is called."""
TASKS = ("word_sorting", "multistep_arithmetic")

Runs = Sequence[Finished]


@dataclass(frozen=True)
class Claim:
    text: str
    found: str
    target: str
    holds: bool | None
    """None: for information."""


def claims_of(experiment: str, runs: Runs) -> list[Claim]:
    """The claims of an experiment; none for one that has no targets of its own."""
    by_variant = {v: [r for r in runs if r.variant == v] for v in dict.fromkeys(r.variant for r in runs)}
    makers: dict[str, Callable[[dict[str, list[Finished]]], list[Claim]]] = {
        "self_refine": self_refine, "self_evolution": self_evolution, "tripost": tripost, "distill": distill,
        "gap_reward": partial(improvers, said={"pit": "R_PIT"}, base=("difference", "the difference")),
        "annotations": partial(self_refine, targeted=False),
        "lag": partial(improvers, said=BEHIND, base=("pit", "on-policy"), no_worse=True),
    }  # fmt: skip
    return makers[experiment](by_variant) if experiment in makers else []


def self_refine(runs: dict[str, list[Finished]], targeted: bool = True) -> list[Claim]:
    """PIT against every Self-Refine, each as its own rule keeps it and after one revision; the target is for the
    stronger one."""
    there = [variant for variant in runs if variant != "pit"]
    found = []
    for rule, text in ((True, "as each one's own rule keeps it"), (False, "after one revision")):
        k = runs[there[0]][0].splits["held_out"].iterations if rule else 1
        name = f"kept_{k}" if rule else f"{k}"
        effects = {v: pooled(runs[v], "held_out", f"pit_{name}", f"self_refine_{name}", "gold") for v in there}
        golds = {v: mean_over_seeds(runs[v], "held_out", f"self_refine_{name}", "gold") for v in there}
        stronger = max(there, key=golds.__getitem__)
        for variant, effect in effects.items():
            judged = targeted and variant == stronger
            target = f"≥ +{SELF_REFINE_TARGET}" if judged else "–"
            holds = effect.delta >= SELF_REFINE_TARGET if judged else None
            mark = " (the stronger)" if variant == stronger else ""
            found.append(Claim(f"PIT vs Self-Refine `{variant}`{mark}, {text}: Δ", shown(effect), target, holds))
    for variant in there:
        shares = ", ".join(f"{100 * at_ceiling(run):.1f} %" for run in runs[variant])
        text = f"Self-Refine `{variant}`, one revision: prompts on which it is as good as the draft without any fault"
        found.append(Claim(f"{text}, by seed", shares, "–", None))
    return found


def at_ceiling(run: Finished) -> float:
    """The share of prompts on which Self-Refine's first revision has the gold score of the draft without any fault."""
    evaluation = run.splits["held_out"]
    world = find_world(f"world:{evaluation.summary.world}")
    prompts, drafts = evaluation.prompts, evaluation.texts("policy")
    assert world is not None and prompts is not None and drafts is not None
    best = [world.gold(x, world.mended(x, y, world.review(x, y))) for x, y in zip(prompts, drafts, strict=True)]
    return float(np.mean(run.scores("held_out", "self_refine_1", "gold") >= np.array(best)))


def self_evolution(runs: dict[str, list[Finished]]) -> list[Claim]:
    """SELF's accuracies, seen and unseen; what the filter does."""
    found = []
    rounds = sum(name.startswith("round_") for name in runs["filtered"][0].counts)
    last = f"sft_round_{rounds}"
    for split in runs["filtered"][0].splits:
        for theirs in ("sft_meta", "sft_qa", "sft_qa_long"):
            effect = pooled(runs["filtered"], split, last, theirs, "verifier")
            text = f"{split}: round {rounds}, direct answers, against {theirs}: points"
            found.append(Claim(text, shown(effect), "> 0", effect.low > 0))
        effect = pooled(runs["filtered"], split, f"{last}_refined_1", last, "verifier")
        found.append(Claim(f"{split}: and with self-refinement: points", shown(effect), "> 0", effect.low > 0))
    for variant in runs:
        for number in range(1, rounds + 1):
            counted = [r.counts[f"round_{number}"] for r in runs[variant]]
            text = ", ".join(
                f"kept {c['kept']}/{c['questions']}, right {c['right_refined']:.3f} → {c['right_kept']:.3f}"
                for c in counted
            )
            found.append(Claim(f"`{variant}`, round {number}: labels, by seed", text, "–", None))
        if variant != "filtered":
            effect = between(runs["filtered"], runs[variant], last, "verifier")
            text = f"`filtered` against `{variant}`, round {rounds}, direct answers: points"
            found.append(Claim(text, shown(effect), "–", None))
        accuracy = mean_over_seeds(runs[variant], "held_out", last, "verifier")
        found.append(Claim(f"`{variant}`: accuracy of round {rounds}, direct", f"{100 * accuracy:.1f} %", "–", None))
    return found


def tripost(runs: dict[str, list[Finished]]) -> list[Claim]:
    """TriPosT's accuracy against its baselines, on each task, seen and unseen."""
    found, gains = [], []
    for task in (task for task in TASKS if task in runs):
        last = f"sft_tripost_{sum(name.startswith('edit_') for name in runs[task][0].counts)}"
        k = runs[task][0].splits["held_out"].iterations
        for split in runs[task][0].splits:
            for theirs in ("sft_rationale", "sft_rationale_long", "sft_lmsi"):
                effect = pooled(runs[task], split, f"{last}_corrected_{k}", theirs, "verifier")
                found.append(Claim(f"{task}, {split}: corrected answers against {theirs}: points", shown(effect), "> 0",
                                   effect.low > 0))  # fmt: skip
                if theirs != "sft_lmsi":
                    gains.append((effect.delta, theirs, f"{task}, {split}"))
            effect = pooled(runs[task], split, f"{last}_corrected_{k}", last, "verifier")
            found.append(Claim(f"{task}, {split}: corrected against direct answers: points", shown(effect), "–", None))
        right = [r.summaries["held_out"]["feedback"][f"{last}_corrected"] for r in runs[task]]
        text = ", ".join(f"{f['right_verdict']:.3f} ({f['right_place']:.3f})" for f in right)
        found.append(
            Claim(f"{task}: share of self-feedback with the right verdict (and place), by seed", text, "–", None)
        )
    best = max((min(g for g, _, p in gains if p == place), place) for place in {p for _, _, p in gains})
    said, target = f"{best[0]:+.1f} ({best[1]})", f"≥ +{TRIPOST_TARGET}"
    return [*found, Claim("largest gain over both rationale baselines", said, target, best[0] >= TRIPOST_TARGET)]


def distill(runs: dict[str, list[Finished]]) -> list[Claim]:
    """The distilled policies against the tuned one."""
    found, own = [], runs["distill"]
    rounds = sum(name.startswith("improved_") for name in own[0].counts)
    for number in range(1, rounds + 1):
        effect = pooled(own, "held_out", f"sft_distilled_{number}", "policy", "gold")
        found.append(Claim(f"policy after round {number} against the tuned policy: Δ by gold", shown(effect), "> 0",
                           effect.low > 0))  # fmt: skip
    golds = [np.mean([r.scores("held_out", name, "gold").mean() for r in own])
             for name in ("policy", f"sft_distilled_{rounds}", "pit_1")]  # fmt: skip
    text = f"policy {golds[0]:.2f}, distilled {golds[1]:.2f}, PIT's revisions {golds[2]:.2f}"
    return [*found, Claim("mean gold", text, "–", None)]


def improvers(
    runs: dict[str, list[Finished]], said: dict[str, str], base: tuple[str, str], no_worse: bool = False
) -> list[Claim]:
    """The improvers of several variants on the same drafts: each against the drafts, and all less the base's. `said`
    and `base`: variant -> what it is called. `no_worse`: they are to be no worse than the base's."""
    against, others = base[0], [run for variant in said for run in runs[variant]]
    for one, other in zip(others, runs[against] * len(said), strict=True):
        if not np.array_equal(drafted(one), drafted(other)):
            raise DataError(f"{other.folder} was evaluated on other drafts than {one.folder}")
    last = f"improver_{runs['pit'][0].splits['held_out'].iterations}"
    systems = {"improver_1": "one revision", last: "the last revision", "improver_stopped": "by the rule"}
    found = []
    for system, text in systems.items():
        compared = {v: [outcomes(r.scores("held_out", system, "gold"), drafted(r)) for r in runs[v]] for v in runs}
        for variant, name in [*said.items(), base]:
            effect = pooled(runs[variant], "held_out", system, "policy", "gold")
            found.append(Claim(f"{name}: Δ against the drafts, {text}", shown(effect), "–", None))
        for variant, name in said.items():
            seed = derive_seed(0, "gap_reward", system)
            effect = pooled_difference(compared[variant], compared[against], RESAMPLES, seed)
            target, holds = ("reaches 0", effect.high >= 0) if no_worse else ("–", None)
            found.append(Claim(f"{name} less {base[1]}, paired, {text}", shown(effect), target, holds))
    return found


def drafted(run: Finished) -> np.ndarray:
    """(n,): the gold scores of the policy's own responses."""
    return run.scores("held_out", "policy", "gold")


def shown(effect: Effect) -> str:
    return f"{effect.delta:+.1f} [{effect.low:+.1f}, {effect.high:+.1f}]"
