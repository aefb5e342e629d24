"""TRL's PPO trainer, a step each time a line comes in; run with the interpreter of its own environment.

usage: python trl_peer.py JSON, with the keys `policy`, `reward` (model folders), `contexts` (token ids, one length),
`new_tokens`, `epochs`, `minibatches`, `lr`, `steps`, `out`. After each step a line of JSON: the seconds of its parts.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Clock(TrainerCallback):
    """When each part of a step began."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def begins(self) -> None:
        sys.stdin.readline()
        self.at = {"begin": time.perf_counter()}

    def first(self, part: str) -> None:
        self.at.setdefault(part, time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        end = time.perf_counter()
        parts = {"generate": self.at["scored"] - self.at["begin"], "score": self.at["learn"] - self.at["scored"]}
        parts |= {"learn": end - self.at["learn"], "step": end - self.at["begin"]}
        print("STEP " + json.dumps(parts), flush=True)


def trainer(asked: dict[str, Any], clock: Clock) -> PPOTrainer:
    samples = len(asked["contexts"])
    tokenizer = AutoTokenizer.from_pretrained(asked["policy"])
    policy, reference = (AutoModelForCausalLM.from_pretrained(asked["policy"]) for _ in range(2))
    value, reward = (AutoModelForSequenceClassification.from_pretrained(asked["reward"]) for _ in range(2))
    config = PPOConfig(
        output_dir=asked["out"], report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, per_device_train_batch_size=samples, gradient_accumulation_steps=1,
        num_mini_batches=asked["minibatches"], num_ppo_epochs=asked["epochs"], num_sample_generations=0,
        local_rollout_forward_batch_size=samples, total_episodes=samples * asked["steps"],
        response_length=asked["new_tokens"], stop_token="eos", temperature=1.0, learning_rate=asked["lr"],
        lr_scheduler_type="constant", kl_coef=0.05, missing_eos_penalty=1.0, disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"input_ids": asked["contexts"]})
    made = PPOTrainer(
        config, tokenizer, policy, reference, reward, train_dataset=rows, eval_dataset=rows, value_model=value,
        callbacks=[clock],
    )  # fmt: skip
    assert made.args.local_batch_size == samples and made.args.local_mini_batch_size * asked["minibatches"] == samples
    return made


def main() -> None:
    asked, clock = json.loads(sys.argv[1]), Clock()
    made = trainer(asked, clock)
    generate, accumulate = ppo_trainer.batch_generation, made.accelerator.accumulate

    def generated(*arguments: Any) -> Any:
        clock.begins()
        found = generate(*arguments)
        clock.first("scored")
        return found

    def learned(*arguments: Any) -> Any:
        clock.first("learn")
        return accumulate(*arguments)

    ppo_trainer.batch_generation, made.accelerator.accumulate = generated, learned
    made.train()


if __name__ == "__main__":
    main()
