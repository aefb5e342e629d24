"""One optimisation step of each kind: cut into micro-batches or not it is the same, and it is what the formula says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pit_ray.config.training import Optimizer, Phase, Ppo
from pit_ray.errors import TrainingError
from pit_ray.learn import ppo, reward, sft
from pit_ray.learn.engine import TorchEngine
from pit_ray.learn.modules import ActorCritic, Policy, Reward
from pit_ray.metrics import Metrics
from pit_ray.models.load import load_causal, load_scalar
from pit_ray.models.packing import collate
from pit_ray.records import Experience, Pairs, Ragged

CPU = torch.device("cpu")
EOS = 1
BRIDGE = np.array([1, 40, 41], dtype=np.int32)
OPTIMIZER = Optimizer(lr=1e-3, warmup_steps=0, grad_clip=0.5)
BUDGETS = (100_000, 120, 1)
"""All rows at once, a few, one by one."""


def parameters(engine: TorchEngine) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in engine.module.parameters()])


def assert_same_whatever_the_budget(
    make: Callable[[], TorchEngine], step: Callable[[TorchEngine, int], Metrics]
) -> None:
    """The updated parameters and the metrics are equal up to float32 rounding for each of BUDGETS."""
    start, seen, updated = parameters(make()), [], []
    for budget in BUDGETS:
        engine = make()
        for _ in range(2):
            metrics = step(engine, budget)
        seen.append(metrics.values_by_name())
        updated.append(parameters(engine))
    assert float((updated[0] - start).abs().max()) > 1e-3
    for after, metrics_after in zip(updated[1:], seen[1:], strict=True):
        assert metrics_after == pytest.approx(seen[0], rel=1e-4, abs=1e-5)
        away = (after - updated[0]).abs()
        # AdamW turns the sign of a gradient of rounding size into a step of its own, so a few may differ more.
        assert float(away.quantile(0.99)) < 1e-6
        assert float(away.max()) < 1e-4


def new_policy(causal: Path, optimizer: Optimizer = OPTIMIZER) -> TorchEngine:
    return TorchEngine(Policy(load_causal(causal, torch.float32)), optimizer, 10)


def new_reward(causal: Path) -> TorchEngine:
    return TorchEngine(Reward(load_scalar(causal, torch.float32, new_head_seed=3)), OPTIMIZER, 10)


def new_actor_critic(causal: Path) -> TorchEngine:
    value = load_scalar(causal, torch.float32, new_head_seed=3)
    return TorchEngine(ActorCritic(load_causal(causal, torch.float32), value), OPTIMIZER, 20)


@pytest.mark.parametrize("bridge", [None, BRIDGE], ids=["policy", "improver"])
def test_sft_does_not_depend_on_micro_batches(causal: Path, pairs: Pairs, bridge: np.ndarray | None) -> None:
    assert_same_whatever_the_budget(
        partial(new_policy, causal),
        lambda engine, budget: sft.step(engine, sft.examples(pairs, bridge, EOS), budget),
    )


@pytest.mark.parametrize("bridge", [None, BRIDGE], ids=["reward", "gap reward"])
def test_reward_training_does_not_depend_on_micro_batches(
    causal: Path, pairs: Pairs, bridge: np.ndarray | None
) -> None:
    assert_same_whatever_the_budget(
        partial(new_reward, causal), lambda engine, budget: reward.step(engine, pairs, bridge, EOS, budget)
    )


def cross_entropy(model: PreTrainedModel, context: list[int], target: list[int]) -> torch.Tensor:
    """Summed over the target's tokens, by transformers' own loss."""
    labels = torch.tensor([[-100] * len(context) + target])
    return model(input_ids=torch.tensor([context + target]), labels=labels).loss * len(target)


@pytest.mark.parametrize("improving", [False, True], ids=["policy", "improver"])
def test_sft_is_cross_entropy_per_token_of_the_preferred_response_and_its_end(
    causal: Path, pairs: Pairs, improving: bool
) -> None:
    metrics = sft.step(new_policy(causal), sft.examples(pairs, BRIDGE if improving else None, EOS), 100)
    model = AutoModelForCausalLM.from_pretrained(str(causal))
    total, tokens = torch.zeros(()), 0
    for i in range(len(pairs)):
        context, target = pairs.prompt[i].tolist(), [*pairs.chosen[i].tolist(), EOS]
        if improving:
            context += [*pairs.rejected[i].tolist(), *BRIDGE.tolist()]
        total, tokens = total + cross_entropy(model, context, target), tokens + len(target)
    loss = total / tokens
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert metrics.mean("loss/sft") == pytest.approx(float(loss.detach()), rel=1e-5)
    assert metrics["loss/sft"][1] == tokens
    assert metrics.mean("policy/grad_norm") == pytest.approx(float(norm), rel=1e-4)
    assert metrics.mean("lr") == OPTIMIZER.lr


def test_a_drafts_limit_cuts_drafts_and_leaves_what_is_learned(causal: Path, pairs: Pairs) -> None:
    limited = replace(pairs, draft_limit=2)
    cut = replace(pairs, rejected=Ragged.of(row[:2] for row in pairs.rejected.rows()))
    tables = [sft.examples(table, BRIDGE, EOS) for table in (limited, cut, pairs)]
    losses = [sft.step(new_policy(causal), table, 500).mean("loss/sft") for table in tables]
    assert losses[0] == losses[1] != losses[2]


def scores_alone(causal: Path, sequences: list[list[int]]) -> list[float]:
    """The reward of each sequence, read unpadded."""
    model: Any = load_scalar(causal, torch.float32, new_head_seed=3)
    with torch.no_grad():
        hidden = [model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in sequences]
        return [float(model.score(h)) for h in hidden]


def test_the_reward_model_is_trained_on_each_response_after_its_prompt(causal: Path, pairs: Pairs) -> None:
    metrics = reward.step(new_reward(causal), pairs, None, EOS, 100)
    prompts = [row.tolist() for row in pairs.prompt.rows()]
    better, worse = (
        np.array(scores_alone(causal, [[*x, *y, EOS] for x, y in zip(prompts, column.rows(), strict=True)]))
        for column in (pairs.chosen, pairs.rejected)
    )
    assert metrics.mean("loss/reward") == pytest.approx(np.log1p(np.exp(worse - better)).mean(), rel=1e-4)
    assert metrics.mean("val/accuracy") == pytest.approx((better > worse).mean())
    assert metrics["loss/reward"][1] == len(pairs)


def test_the_gap_model_reads_the_draft_first_and_compares_five_times(causal: Path, pairs: Pairs) -> None:
    metrics = reward.step(new_reward(causal), pairs, BRIDGE, EOS, 400)

    def gap(response: Ragged, draft: Ragged) -> np.ndarray:
        rows = zip(pairs.prompt.rows(), draft.rows(), response.rows(), strict=True)
        return np.array(scores_alone(causal, [[*x, *d, *BRIDGE, *y, EOS] for x, d, y in rows]))

    wl, ww = gap(pairs.chosen, pairs.rejected), gap(pairs.chosen, pairs.chosen)
    ll, lw = gap(pairs.rejected, pairs.rejected), gap(pairs.rejected, pairs.chosen)
    steps = np.stack([wl - ww, wl - ll, wl - lw, ww - lw, ll - lw])
    assert metrics.mean("loss/reward") == pytest.approx(np.log1p(np.exp(-steps)).sum(0).mean(), rel=1e-4)
    assert metrics.mean("val/accuracy") == pytest.approx((wl > lw).mean())


def test_sft_learns_a_small_set_by_heart(causal: Path, pairs: Pairs) -> None:
    optimizer = Optimizer(lr=1e-2, schedule="constant", warmup_steps=0)
    engine, few = new_policy(causal, optimizer), pairs.take([0, 1, 2])
    losses = [sft.step(engine, sft.examples(few, BRIDGE, EOS), 1000).mean("loss/sft") for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("bridge", [None, BRIDGE], ids=["reward", "gap reward"])
def test_reward_models_learn_which_response_is_better(causal: Path, pairs: Pairs, bridge: np.ndarray | None) -> None:
    engine = new_reward(causal)
    seen = [reward.step(engine, pairs, bridge, EOS, 1000) for _ in range(30)]
    assert seen[0].mean("val/accuracy") < 0.9
    assert seen[-1].mean("val/accuracy") == 1.0
    assert seen[-1].mean("loss/reward") < 0.2 * seen[0].mean("loss/reward")


PPO = Ppo(phases=(Phase(name="policy", drafts="none", steps=1),), optimizer=OPTIMIZER, epochs=2, minibatches=2)


def experience(causal: Path, pairs: Pairs) -> Experience:
    """Made-up advantages and returns, with the true log-probabilities and values of a fresh learner at 0.8."""
    engine = new_actor_critic(causal)
    rng = np.random.default_rng(5)
    responses = pairs.chosen
    logprobs, values = [], []
    for context, response in zip(pairs.prompt.rows(), responses.rows(), strict=True):
        alone = collate([context], [response], CPU)
        with torch.no_grad():
            found, _, value = engine(alone, 0.8)
        logprobs.append(found.numpy())
        values.append(value.numpy())

    def drawn(mean: float) -> Ragged:
        return Ragged(rng.normal(mean, 1.0, len(responses.values)).astype(np.float32), responses.offsets)

    return Experience(
        context=pairs.prompt,
        response=responses,
        logprobs=Ragged.of(logprobs, np.float32),
        advantages=drawn(0.0),
        returns=drawn(0.5),
        values=Ragged.of(values, np.float32),
        weights=Ragged(rng.uniform(0.5, 2.0, len(responses.values)).astype(np.float32), responses.offsets),
        temperature=0.8,
    )


EXACT, NONE = (ppo.RatioLimit(limit, torch.max) for limit in (1e-3, np.inf))


def with_budget(budget: int) -> Ppo:
    return PPO.model_copy(update={"optimizer": OPTIMIZER.model_copy(update={"micro_batch_tokens": budget})})


def test_ppo_does_not_depend_on_micro_batches(causal: Path, pairs: Pairs) -> None:
    made = experience(causal, pairs)
    assert_same_whatever_the_budget(
        partial(new_actor_critic, causal),
        # Only the first of the two steps starts from the experience's own policy.
        lambda engine, budget: ppo.step(engine, made, with_budget(budget), seed=1, ratio_limit=NONE),
    )


def test_the_first_ppo_update_is_the_weighted_policy_gradient_over_all_tokens(causal: Path, pairs: Pairs) -> None:
    made = experience(causal, pairs)
    once = PPO.model_copy(update={"epochs": 1, "minibatches": 1, "value_coefficient": 0.25})
    metrics = ppo.step(new_actor_critic(causal), made, once, seed=1, ratio_limit=EXACT)
    engine = new_actor_critic(causal)
    # Before the first update the ratio is 1 and no value has moved: the gradient is that of these plain sums.
    total = torch.zeros(())
    for i, context in enumerate(pairs.prompt.rows()):
        alone = collate([context], [made.response[i]], CPU)
        logprobs, _, values = engine(alone, made.temperature)
        advantages, weights, returns = (torch.from_numpy(c[i]) for c in (made.advantages, made.weights, made.returns))
        total = total - (weights * advantages * logprobs).sum() + 0.25 * 0.5 * ((values - returns) ** 2).sum()
    (total / len(made.response.values)).backward()
    norm = torch.cat([p.grad.flatten() for p in engine.module.parameters() if p.grad is not None]).norm()
    assert metrics.mean("policy/grad_norm") == pytest.approx(float(norm), rel=1e-3)
    assert metrics.mean("val/ratio") == pytest.approx(1.0, abs=1e-4)
    expected = -(made.weights.values * made.advantages.values).mean()
    assert metrics.mean("loss/policy_avg") == pytest.approx(float(expected), abs=1e-4)
    assert metrics.mean("loss/value_avg") == pytest.approx(
        float(((made.values.values - made.returns.values) ** 2).mean() / 2), rel=1e-4
    )


def test_ppo_goes_through_the_samples_once_an_epoch(causal: Path, pairs: Pairs) -> None:
    metrics = ppo.step(new_actor_critic(causal), experience(causal, pairs), PPO, seed=1, ratio_limit=EXACT)
    assert metrics["val/ratio"][1] == 2 * len(pairs.chosen.values)
    # Epochs times minibatches optimisation steps.
    assert metrics["policy/grad_norm"][1] == 4
    assert metrics.mean("policy/approxkl_avg") > 0


@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 0.01), (torch.bfloat16, 0.05)])
def test_ppo_refuses_experience_of_another_policy_before_it_changes_anything(
    causal: Path, pairs: Pairs, dtype: torch.dtype, shift: float
) -> None:
    made = experience(causal, pairs)
    shifted = replace(made, logprobs=Ragged(made.logprobs.values - np.float32(shift), made.logprobs.offsets))
    engine = new_actor_critic(causal)
    before = parameters(engine)
    with pytest.raises(TrainingError, match=rf"ratio is off by {shift}"):
        ppo.step(engine, shifted, PPO, seed=1, ratio_limit=ppo.RATIO_LIMIT[dtype])
    assert torch.equal(parameters(engine), before)


def test_ppo_raises_the_probability_of_what_turned_out_well(causal: Path, pairs: Pairs) -> None:
    made = experience(causal, pairs)
    good = np.arange(len(pairs)) < 6
    signs = np.repeat(np.where(good, 1.0, -1.0), made.response.lengths).astype(np.float32)
    taught = replace(made, advantages=Ragged(signs, made.response.offsets))
    engine = new_actor_critic(causal)
    gentle = PPO.model_copy(update={"epochs": 1, "value_coefficient": 0.0})
    ppo.step(engine, taught, gentle, seed=1, ratio_limit=EXACT)
    moved = []
    for i, context in enumerate(pairs.prompt.rows()):
        alone = collate([context], [made.response[i]], CPU)
        with torch.no_grad():
            after, _, _ = engine(alone, made.temperature)
        moved.append(float(after.sum()) - float(made.logprobs[i].sum()))
    assert np.mean(moved[:6]) > 0 > np.mean(moved[6:])
