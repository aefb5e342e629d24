"""TRL's trainers, a step each time a line comes in; run with the interpreter of their own environment.

usage: python trl_peer.py JSON, with the keys `method` (ppo, grpo or rloo), `policy`, `reward` (model folders),
`contexts` (token ids, one length), `generations` (samples of each; one for PPO), `new_tokens`, `epochs`, `minibatches`,
`lr`, `beta`, `steps`, `out`; maybe `cuda` (true: on the GPU, in bfloat16). After each step a line of JSON: the seconds
of its parts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

Asked = dict[str, Any]


class Clock(TrainerCallback):
    """When each part of a step began. What is a step here may be several in the trainer's own count."""

    def __init__(self, updates: int) -> None:
        self.updates = updates
        self.at: dict[str, float] = {}

    def begins(self) -> None:
        sys.stdin.readline()
        self.at = {"begin": time.perf_counter()}

    def first(self, part: str) -> None:
        self.at.setdefault(part, time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.updates:
            return
        end = time.perf_counter()
        parts = {"generate": self.at["scored"] - self.at["begin"], "score": self.at["learn"] - self.at["scored"]}
        parts |= {"learn": end - self.at["learn"], "step": end - self.at["begin"]}
        print("STEP " + json.dumps(parts), flush=True)


def shared(asked: Asked) -> dict[str, Any]:
    """The options that all trainers know."""
    cuda = bool(asked.get("cuda"))
    return {
        "output_dir": asked["out"], "report_to": [], "save_strategy": "no", "use_cpu": not cuda, "bf16": cuda,
        "gradient_checkpointing": False, "gradient_accumulation_steps": 1, "temperature": 1.0,
        "learning_rate": asked["lr"], "lr_scheduler_type": "constant", "disable_tqdm": True,
    }  # fmt: skip


def ppo(asked: Asked) -> Any:
    samples, clock = len(asked["contexts"]), Clock(1)
    tokenizer = AutoTokenizer.from_pretrained(asked["policy"])
    policy, reference = (AutoModelForCausalLM.from_pretrained(asked["policy"]) for _ in range(2))
    value, reward = (AutoModelForSequenceClassification.from_pretrained(asked["reward"]) for _ in range(2))
    config = PPOConfig(
        **shared(asked), per_device_train_batch_size=samples, num_mini_batches=asked["minibatches"],
        num_ppo_epochs=asked["epochs"], num_sample_generations=0, local_rollout_forward_batch_size=samples,
        total_episodes=samples * asked["steps"], response_length=asked["new_tokens"], stop_token="eos",
        kl_coef=asked["beta"], missing_eos_penalty=1.0,
    )  # fmt: skip
    rows = Dataset.from_dict({"input_ids": asked["contexts"]})
    made = PPOTrainer(
        config, tokenizer, policy, reference, reward, train_dataset=rows, eval_dataset=rows, value_model=value,
        callbacks=[clock],
    )  # fmt: skip
    assert made.args.local_batch_size == samples and made.args.local_mini_batch_size * asked["minibatches"] == samples
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
    return made


def grouped(name: str, asked: Asked) -> Any:
    """GRPO or RLOO: samples of a prompt are judged by each other, without a value model."""
    # This TRL knows vLLM up to 0.27.1, and its modules do not import beside a newer one.
    sys.modules["vllm"] = None  # type: ignore[assignment]
    config, trainer = getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")
    samples, updates = len(asked["contexts"]) * asked["generations"], asked["epochs"] * asked["minibatches"]
    clock, tokenizer = Clock(updates), AutoTokenizer.from_pretrained(asked["policy"])
    # The blank keeps a prompt's last word apart from the response's first, where the reward model reads both as text.
    texts = [f"{tokenizer.decode(row)} " for row in asked["contexts"]]
    assert tokenizer(texts)["input_ids"] == asked["contexts"], "the prompts' texts have other tokens"
    how = config(
        **shared(asked), per_device_train_batch_size=samples // asked["minibatches"],
        steps_per_generation=asked["minibatches"], num_iterations=asked["epochs"], num_generations=asked["generations"],
        max_completion_length=asked["new_tokens"], max_steps=updates * asked["steps"], beta=asked["beta"],
        shuffle_dataset=False, model_init_kwargs={"dtype": "float32"}, logging_steps=updates,
    )  # fmt: skip
    rows = Dataset.from_dict({"prompt": texts})
    made = trainer(asked["policy"], asked["reward"], how, rows, processing_class=tokenizer, callbacks=[clock])
    generate, score = made._generate, made._generate_and_score_completions

    def generated(*arguments: Any) -> Any:
        found = generate(*arguments)
        clock.first("scored")
        return found

    def scored(*arguments: Any) -> Any:
        clock.begins()
        found = score(*arguments)
        clock.first("learn")
        return found

    made._generate, made._generate_and_score_completions = generated, scored
    return made


METHODS: dict[str, Callable[[Asked], Any]] = {
    "ppo": ppo,
    "grpo": partial(grouped, "GRPO"),
    "rloo": partial(grouped, "RLOO"),
}


def main() -> None:
    asked = json.loads(sys.argv[1])
    METHODS[asked["method"]](asked).train()


if __name__ == "__main__":
    main()
