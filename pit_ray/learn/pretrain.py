"""Makes a tiny base model that ships here, from a seed: python -m pit_ray.learn.pretrain notes

It knows the language, and how to look up what stands before it, as any pretrained model does, but not what people
prefer, nor how a task is solved. What it is trained on: documents.py and
task_documents.py.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from pit_ray.learn.batches import micro_batches
from pit_ray.learn.documents import Document, Documents, WorldDocuments
from pit_ray.learn.modules import Policy
from pit_ray.learn.task_documents import TaskDocuments
from pit_ray.models.load import new_llama
from pit_ray.models.packing import collate, use_packing

WARMUP, DECAY = 50, 0.4
"""Steps of linear warm-up, and the share of all steps over which the rate falls linearly to a fiftieth."""
BATCH = 64
MICRO_BATCH_TOKENS = 4096
MATRIX_LR, OTHER_LR = 0.02, 3e-3
"""Of Muon, for the matrices inside the layers, and of AdamW, for embeddings and norms."""


def documents_of(name: str) -> Documents:
    """The pretraining text of the base `name`: a world's, or `tasks`."""
    return TaskDocuments() if name == "tasks" else WorldDocuments(name)


def optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.01),
        torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def lr_factor(step: int, steps: int) -> float:
    """The learning rates of a step as a share of their peaks."""
    return min((step + 1) / WARMUP, 1.0, max(0.02, (steps - step) / (DECAY * steps)))


def gradients(policy: Policy, documents: list[Document]) -> float:
    """Adds the gradient of the loss in nats per written token, and returns that loss."""
    lengths = np.array([len(context) + len(written) for context, written in documents])
    count = sum(len(written) for _, written in documents)
    loss = 0.0
    for rows in micro_batches(lengths, 0, 1, MICRO_BATCH_TOKENS):
        batch = collate([documents[i][0] for i in rows], [documents[i][1] for i in rows], torch.device("cpu"))
        part = -policy(batch)[0].sum() / count
        part.backward()
        loss += part.item()
    return loss


def pretrain(name: str, seed: int, folder: Path | None) -> None:
    """Trains the base and writes it (weights, tokenizer, chat template, renderer) to `folder`, or where it ships."""
    documents = documents_of(name)
    renderer, folder = documents.renderer, folder or documents.folder
    model = new_llama(documents.shape, renderer.tokenizer, seed)
    use_packing(model)
    policy, both = Policy(model), optimizers(model)
    factor = partial(lr_factor, steps=documents.steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in both]
    started, losses = time.monotonic(), []
    for step in range(documents.steps):
        batch = [documents.draw(np.random.default_rng([seed, step, i])) for i in range(BATCH)]
        losses.append(gradients(policy, batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(both, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1:5d}  nats/token {np.mean(losses[-50:]):.4f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    model.save_pretrained(str(folder))
    renderer.save(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a world, or tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: where it ships")
    arguments = parser.parse_args()
    pretrain(arguments.name, arguments.seed, arguments.folder)
