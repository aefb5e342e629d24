"""What the sampler of this process draws."""

from __future__ import annotations

import numpy as np
import torch

from pit_ray.curriculum import plain_prompts
from pit_ray.data.parquet import read_pairs
from pit_ray.data.templates import Renderer
from pit_ray.in_process import TorchRollout
from pit_ray.models.load import load_causal
from pit_ray.records import Rollouts
from pit_ray.roles import GenerateRequest
from pit_ray.run_folder import RunFolder


def generated(
    folder: RunFolder, shard_size: int, seed: int = 1, temperature: float = 0.8, longest: int = 12
) -> Rollouts:
    """Sixteen responses of the tuned policy."""
    pool = TorchRollout(folder.model("ppo_policy"), Renderer.load(folder.stage("data") / "renderer").eos, folder.store)
    prompts = plain_prompts(read_pairs(folder.stage("data") / "rl.parquet"), np.arange(16), 100)
    request = GenerateRequest(temperature=temperature, max_new_tokens=longest, seed=seed, shard_size=shard_size)
    return pool.generate(prompts, request).result()


def test_sampled_logprobs_are_the_models_at_the_temperature(finished: RunFolder) -> None:
    rollouts = generated(finished, shard_size=5)
    model = load_causal(finished.model("ppo_policy"), torch.float32)
    for i in range(16):
        context, response = rollouts.prompts.prompt[i], rollouts.response[i]
        ids = torch.from_numpy(np.concatenate([context, response]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(context) - 1 : -1] / 0.8
        expected = torch.log_softmax(logits, -1)[range(len(response)), response]
        np.testing.assert_allclose(rollouts.logprobs[i], expected.numpy(), atol=1e-4)


def test_at_temperature_0_every_token_is_the_likeliest(finished: RunFolder) -> None:
    rollouts = generated(finished, shard_size=5, temperature=0.0)
    model = load_causal(finished.model("ppo_policy"), torch.float32)
    for i in range(16):
        context, response = rollouts.prompts.prompt[i], rollouts.response[i]
        ids = torch.from_numpy(np.concatenate([context, response]).astype(np.int64))[None]
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=ids).logits[0, len(context) - 1 : -1], -1)
        assert logprobs.argmax(-1).tolist() == response.tolist()
        np.testing.assert_allclose(rollouts.logprobs[i], logprobs.max(-1).values.numpy(), atol=1e-4)


def test_a_response_ends_with_the_end_token_exactly_when_it_finished(finished: RunFolder) -> None:
    # Long and at a high temperature, so that an untrained model ends some responses and not others.
    rollouts = generated(finished, shard_size=16, temperature=5.0, longest=200)
    eos = Renderer.load(finished.stage("data") / "renderer").eos
    assert 0 < rollouts.finished.sum() < 16
    for row, done in zip(rollouts.response.rows(), rollouts.finished, strict=True):
        assert (row[-1] == eos) == done
        assert eos not in row[:-1]
        assert done or len(row) == 200
    assert rollouts.prompts.uid.tolist() == list(range(100, 116))


def test_draws_depend_on_seed_and_shard_alone(finished: RunFolder) -> None:
    torch.manual_seed(0)
    first = generated(finished, shard_size=8)
    torch.manual_seed(1)
    again, other = generated(finished, shard_size=8), generated(finished, shard_size=8, seed=2)
    assert again.response.values.tolist() == first.response.values.tolist()
    assert other.response.values.tolist() != first.response.values.tolist()
    # A shard draws the same with or without the others.
    eos = Renderer.load(finished.stage("data") / "renderer").eos
    pool = TorchRollout(finished.model("ppo_policy"), eos, finished.store)
    request = GenerateRequest(temperature=0.8, max_new_tokens=12, seed=1, shard_size=8)
    second = pool.generate(first.prompts.take(np.arange(8, 16)), request).result()
    assert second.response.values.tolist() == first.take(np.arange(8, 16)).response.values.tolist()
