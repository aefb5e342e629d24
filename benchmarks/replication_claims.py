"""What a replication has to show, each with what was found, the target, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.replication_runs import FULL, Finished
from pit_ray.data.randomness import derive_seed
from pit_ray.evaluate.comparisons import Comparison
from pit_ray.evaluate.contests import STEP
from pit_ray.evaluate.pooling import Effect, pooled_difference

RESAMPLES = 10_000
MEAN_DELTA, LOWER_END = 34, 25
"""Of one revision against the tuned policy; the paper's best Δ is +33.59."""
TRUNCATED, DISTINCT, COPIED, CORRELATION = 0.05, 0.9, 0.5, 0.5
"""Ours, as docs/metrics.md has them for training."""
CURRICULUM = ("annotated_only", "on_policy_only")


class Claim(NamedTuple):
    """One line of the verdict; `holds` is None where a number is reported without a target."""

    text: str
    found: str
    target: str
    holds: bool | None


def claims(runs: Sequence[Finished]) -> list[Claim]:
    """All claims about one world, from its runs."""
    by_variant: dict[str, list[Finished]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
    full = by_variant[FULL]
    return [
        *fair_opponent(full),
        *improvement(full),
        *curriculum(by_variant),
        *supervised(full),
        *iterations(full),
        *gap_rewards(by_variant),
        *hollow_wins(full),
    ]


def fair_opponent(full: Sequence[Finished]) -> list[Claim]:
    beaten = [run.comparison("policy_vs_sft_policy", 0) for run in full]
    means = [(mean(run, "policy"), mean(run, "chosen")) for run in full]
    rollouts = [(run.rollouts.get("ppo_policy", 0), run.rollouts.get("ppo_improver", 0)) for run in full]
    return [
        Claim("the tuned policy beats the SFT policy", seeds(full, map(shown, beaten)), "every interval above 0",
              all(c.ci95[0] > 0 for c in beaten)),
        Claim("its mean score is at least that of y_w", seeds(full, (f"{p:.2f}, y_w {w:.2f}" for p, w in means)),
              "policy ≥ y_w, every seed", all(p >= w for p, w in means)),
        Claim("it saw at least as many rollouts as the improver",
              seeds(full, (f"{p}, improver {i}" for p, i in rollouts)), "policy ≥ improver",
              all(p >= i > 0 for p, i in rollouts)),
        Claim("KL to their SFT models at the end, in nats a response",
              seeds(full, map(divergences, full)), "–", None),
    ]  # fmt: skip


def divergences(run: Finished) -> str:
    kl = run.summary["kl"]
    policy, improver = ("–" if kl[stage] is None else f"{kl[stage]:.2f}" for stage in ("ppo_policy", "ppo_improver"))
    return f"{policy}, improver {improver}"


def improvement(full: Sequence[Finished]) -> list[Claim]:
    found = [run.comparison("improver_vs_policy", 1) for run in full]
    average = float(np.mean([c.delta for c in found]))
    rival = [run.comparison("best_of_2_vs_policy", 0) for run in full]
    ahead = effect(full, "improver_1", full, "best_of_2")
    return [
        Claim("improver vs the tuned policy's responses, one revision: Δ", f"mean {average:+.1f}", f"≥ +{MEAN_DELTA}",
              average >= MEAN_DELTA),
        Claim("the same, seed by seed", seeds(full, map(shown, found)), f"every lower end > +{LOWER_END}",
              all(c.ci95[0] > LOWER_END for c in found)),
        Claim("best of 2 of the policy by R_P (as many model calls)", seeds(full, map(shown, rival)), "–", None),
        Claim("Δ improver − Δ best of 2, paired", shown(ahead), "–", None),
    ]  # fmt: skip


def curriculum(by_variant: dict[str, list[Finished]]) -> list[Claim]:
    found, full = [], by_variant[FULL]
    for variant in (v for v in CURRICULUM if v in by_variant):
        alone = by_variant[variant]
        ahead = effect(full, "improver_1", alone, "improver_1")
        deltas = seeds(alone, (shown(run.comparison("improver_vs_policy", 1)) for run in alone))
        steps = [(a.rollouts["ppo_improver"], b.rollouts["ppo_improver"]) for a, b in zip(full, alone, strict=True)]
        found += [
            Claim(f"{variant}: Δ", deltas, "–", None),
            Claim(f"full and {variant} saw equally many rollouts", seeds(full, (f"{a} and {b}" for a, b in steps)),
                  "equal", all(a == b for a, b in steps)),
            Claim(f"Δ full − Δ {variant}, paired", shown(ahead), "interval above 0", ahead.low > 0),
        ]  # fmt: skip
    return found


def supervised(full: Sequence[Finished]) -> list[Claim]:
    pairs = [(run.comparison("sft_improver_vs_policy", 1), run.comparison("improver_vs_policy", 1)) for run in full]
    behind = effect(full, "improver_1", full, "sft_improver")
    return [
        Claim("SFT improver: its upper end is below the improver's lower end",
              seeds(full, (shown(s) for s, _ in pairs)), "every seed",
              all(s.ci95[1] < i.ci95[0] for s, i in pairs)),
        Claim("SFT improver: Δ at most a third of the improver's",
              seeds(full, (f"{s.delta:+.1f} of {i.delta:+.1f}" for s, i in pairs)), "every seed",
              all(i.delta > 0 and s.delta <= i.delta / 3 for s, i in pairs)),
        Claim("Δ improver − Δ SFT improver, paired", shown(behind), "interval above 0", behind.low > 0),
    ]  # fmt: skip


def iterations(full: Sequence[Finished]) -> list[Claim]:
    found = []
    for rule in (True, False):
        falls = []
        for run in full:
            steps = [run.comparison(STEP, k, rule) for k in range(2, run.iterations + 1)]
            steps.insert(0, run.comparison("improver_vs_policy", 1, rule))
            falls.append([f"{c.iterations - 1}→{c.iterations} {shown(c)}" for c in steps if c.ci95[1] < 0])
        text = "with the stopping rule" if rule else "without it"
        found.append(
            Claim(
                f"{text}, quality does not fall from one iteration to the next",
                seeds(full, ("; ".join(f) or "no fall" for f in falls)),
                "no interval below 0" if rule else "–",
                not any(falls) if rule else None,
            )
        )
    return found


def gap_rewards(by_variant: dict[str, list[Finished]]) -> list[Claim]:
    full, found = by_variant[FULL], []
    for pairs in ("annotated", "written"):
        for score in ("five", "difference"):
            rows = [measure(run, score, pairs) for run in full]
            if None not in rows:
                found.append(Claim(f"gap reward `{score}`, {pairs} pairs", seeds(full, map(trust, rows)), "–", None))
    if "difference" in by_variant:
        ahead = effect(full, "improver_1", by_variant["difference"], "improver_1")
        found.append(Claim("Δ full − Δ trained on the difference of R_P, paired", shown(ahead), "–", None))
    return found


def hollow_wins(full: Sequence[Finished]) -> list[Claim]:
    equal = [run.comparison("improver_vs_policy", 1, at="length_controlled") for run in full]

    def sign(text: str, name: str, target: str, holds: Callable[[float], bool]) -> Claim:
        values = [run.summary["health"]["improver_1"][name] for run in full]
        return Claim(f"improver: {text}", seeds(full, (f"{v:.3f}" for v in values)), target, all(map(holds, values)))

    kl = [["–" if found is None else f"{found:.1f}" for found in run.summary["kl"].values()] for run in full]
    return [
        Claim("KL to the SFT model in the last steps, nats per response",
              seeds(full, (f"policy {policy}, improver {improver}" for policy, improver in kl)), "–", None),
        Claim("improver vs policy at equal length: Δ", seeds(full, map(shown, equal)), "every interval above 0",
              all(c.ci95[0] > 0 for c in equal)),
        sign("correlation of reward and length", "reward_length_correlation", f"within ±{CORRELATION}",
             lambda v: abs(v) <= CORRELATION),
        sign("share of truncated responses", "truncated", f"≤ {TRUNCATED}", lambda v: v <= TRUNCATED),
        sign("share of distinct responses", "distinct", f"≥ {DISTINCT}", lambda v: v >= DISTINCT),
        sign("share of revisions that copy the draft", "copied", f"≤ {COPIED}", lambda v: v <= COPIED),
    ]  # fmt: skip


def effect(ours: Sequence[Finished], our_system: str, theirs: Sequence[Finished], their_system: str) -> Effect:
    """The pooled difference of two systems' Δ against the same drafts, `ours` and `theirs` by the same seeds."""
    assert [run.seed for run in ours] == [run.seed for run in theirs]
    drawn = derive_seed(ours[0].seed, "replication", ours[0].world, our_system, theirs[0].variant, their_system)
    mine, other = [run.outcomes(our_system) for run in ours], [run.outcomes(their_system) for run in theirs]
    return pooled_difference(mine, other, RESAMPLES, drawn)


def mean(run: Finished, system: str) -> float:
    return float(run.scores[system, run.judge].mean())


def measure(run: Finished, score: str, pairs: str) -> dict | None:
    """A row of summary.json's gap_reward.measures."""
    rows = run.summary["gap_reward"]["measures"]
    return next((row for row in rows if (row["score"], row["pairs"]) == (score, pairs)), None)


def trust(row: dict | None) -> str:
    """A measure in words."""
    if row is None or row["gold_agreement"] is None:
        return "too few pairs" if row is None or row["accuracy"] is None else f"accuracy {row['accuracy']:.3f}"
    low, high = row["gold_ci95"]
    order = "–" if row["accuracy"] is None else f"accuracy {row['accuracy']:.3f}, order {row['order_holds']:.3f}"
    agreement = f"agrees with gold {row['gold_agreement']:.3f} [{low:.3f}, {high:.3f}] (n {row['gold_n']})"
    return f"{order}, {agreement}, r {row['gold_pearson'] or 0:.2f}"


def shown(found: Comparison | Effect) -> str:
    """Δ with its interval."""
    low, high = found.ci95 if isinstance(found, Comparison) else (found.low, found.high)
    return f"{found.delta:+.1f} [{low:+.1f}, {high:+.1f}]"


def seeds(runs: Sequence[Finished], texts: Iterable[str]) -> str:
    """One text a seed."""
    return "<br>".join(f"{run.seed}: {text}" for run, text in zip(runs, texts, strict=True))
