"""How far a gap score can be trusted: the order of PIT's Eq. 1, and agreement with gold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest, pearsonr, spearmanr

Variant = Literal["five", "difference"]
"""As in the configuration: the gap reward model, or R_P(x, y_1) − R_P(x, y_2)."""

TIE = 1e-6


class PairScores(NamedTuple):
    """r^{ab} = R(x, y_a, y_b) of pairs of responses y_1, y_2, each (n,)."""

    r12: np.ndarray
    r21: np.ndarray
    r11: np.ndarray
    r22: np.ndarray

    @classmethod
    def of_rewards(cls, first: np.ndarray, second: np.ndarray) -> PairScores:
        """The `difference` score R_P(x, y_a) − R_P(x, y_b)."""
        return cls(first - second, second - first, np.zeros_like(first), np.zeros_like(first))

    def swapped(self, where: np.ndarray) -> PairScores:
        """With y_1 and y_2 exchanged in those rows."""
        r12, r21, r11, r22 = self
        picked = (np.where(where, b, a) for a, b in ((r12, r21), (r21, r12), (r11, r22), (r22, r11)))
        return PairScores(*picked)

    @property
    def gap(self) -> np.ndarray:
        """What PPO sees of y_1 as a revision of y_2."""
        return self.r12 - self.r22


class GapMeasure(BaseModel):
    """One score on one set of pairs; fields are None where nothing can be said."""

    model_config = ConfigDict(frozen=True)

    score: Variant
    pairs: Literal["annotated", "written"]
    """annotated: held-out y_w and y_l; written: the improver's first revision and the policy's draft."""
    n: int
    """Pairs with a winner: by label where annotated, by gold where written."""
    accuracy: float | None
    """Share of these with r^{wl} > r^{lw}."""
    order_holds: float | None
    """Share of these with r^{wl} > max(r^{ww}, r^{ll}) and min(r^{ww}, r^{ll}) > r^{lw} (Eq. 1)."""
    gold_n: int | None = None
    """Pairs whose two responses differ in gold."""
    gold_agreement: float | None = None
    """Share of these in which the gap has the sign of the gold difference."""
    gold_ci95: tuple[float, float] | None = None
    """Wilson interval of that share."""
    gold_pearson: float | None = None
    """Correlation of gap and gold difference over all pairs."""
    gold_spearman: float | None = None


def gap_measures(
    variant: Variant, labelled: PairScores, revised: PairScores, scores: Mapping[str, Mapping[str, np.ndarray]]
) -> list[GapMeasure]:
    """The gap score in use and, beside the five-comparison model, the plain difference of R_P on the same pairs.

    `labelled` and `revised` are the score in use on annotated pairs, y_w first, and on first revisions, the revision
    first; `scores` has system -> judge -> (n,) of chosen, rejected, policy and improver_1.
    """
    chosen, rejected, policy, revision = (scores[name] for name in ("chosen", "rejected", "policy", "improver_1"))
    scored = {variant: (labelled, revised)}
    if variant == "five":
        scored["difference"] = (
            PairScores.of_rewards(chosen["reward"], rejected["reward"]),
            PairScores.of_rewards(revision["reward"], policy["reward"]),
        )
    gold = (chosen["gold"], rejected["gold"]) if "gold" in chosen else None
    measures = []
    for name, (on_labelled, on_revised) in scored.items():
        measures.append(on_annotated(name, on_labelled, gold))
        if gold is not None:
            measures.append(on_written(name, on_revised, revision["gold"] - policy["gold"]))
    return measures


def eq1_order(winner_first: PairScores) -> tuple[float | None, float | None]:
    """(accuracy, order_holds) of pairs whose y_1 is the winner, see `GapMeasure`; None without pairs."""
    wl, lw, ww, ll = winner_first
    if len(wl) == 0:
        return None, None
    holds = (wl > np.maximum(ww, ll)) & (np.minimum(ww, ll) > lw)
    return float((wl > lw).mean()), float(holds.mean())


def on_annotated(score: Variant, winner_first: PairScores, gold: tuple[np.ndarray, np.ndarray] | None) -> GapMeasure:
    """On annotated pairs, y_1 = y_w; `gold` is that of y_w and of y_l. For the agreement with gold, y_w and y_l are
    the revision by turns, as they are the draft in equal shares when the improver is trained."""
    accuracy, order = eq1_order(winner_first)
    measure = GapMeasure(score=score, pairs="annotated", n=len(winner_first.r12), accuracy=accuracy, order_holds=order)
    if gold is None:
        return measure
    worse_first = np.arange(len(winner_first.r12)) % 2 == 1
    ahead = np.where(worse_first, gold[1] - gold[0], gold[0] - gold[1])
    return measure.model_copy(update=agreement(winner_first.swapped(worse_first).gap, ahead))


def on_written(score: Variant, revision_first: PairScores, ahead: np.ndarray) -> GapMeasure:
    """On pairs that models wrote, y_1 the revision and y_2 its draft; `ahead` is gold(y_1) − gold(y_2), (n,)."""
    differ = np.abs(ahead) > TIE
    ordered = revision_first.swapped(ahead < 0)
    accuracy, order = eq1_order(PairScores(*(column[differ] for column in ordered)))
    measure = GapMeasure(score=score, pairs="written", n=int(differ.sum()), accuracy=accuracy, order_holds=order)
    return measure.model_copy(update=agreement(revision_first.gap, ahead))


def agreement(gap: np.ndarray, ahead: np.ndarray) -> dict[str, object]:
    """The gold_* fields of a `GapMeasure`: gaps (n,) against gold differences (n,) of the same pairs."""
    differ = np.abs(ahead) > TIE
    n, same = int(differ.sum()), int((np.sign(gap) == np.sign(ahead))[differ].sum())
    found: dict[str, object] = {"gold_n": n}
    if n:
        interval = binomtest(same, n).proportion_ci(method="wilson")
        found |= {"gold_agreement": same / n, "gold_ci95": (float(interval.low), float(interval.high))}
    if len(gap) > 1 and np.ptp(gap) > 0 and np.ptp(ahead) > 0:
        found |= {
            "gold_pearson": float(pearsonr(gap, ahead).statistic),
            "gold_spearman": float(spearmanr(gap, ahead).statistic),
        }
    return found
