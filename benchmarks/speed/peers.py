"""A PPO step against steps of TRL's GRPO and RLOO trainers, all in turn: the same models, as many samples, passes over
each, minibatches and optimizer, a reference and the reward model's folder.

The work is not the same: ours trains a value model beside the policy, they have none and draw GENERATIONS samples of a
prompt instead, which they judge by each other. Ours gets as many different prompts as it has samples, of which theirs
are the first. They generate with transformers, since this TRL knows no vLLM as new as the CPU build here.

usage: python -m benchmarks.speed.peers FINDINGS [long | short]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.speed.findings import FINDINGS, Finding, finding, median_ratio
from benchmarks.speed.one_step import LENGTHS, Ours, Theirs, stage, steps_in_turn

GENERATIONS, ROUNDS = 8, 3
METHODS = ("grpo", "rloo")


def measure(name: str, root: Path) -> list[Finding]:
    with stage(name, root) as (deployment, folders, prompts, longest):
        ours = Ours(deployment, folders, prompts, longest)
        theirs = {method: Theirs(method, folders, prompts, longest, ROUNDS, GENERATIONS) for method in METHODS}
        seconds = steps_in_turn({"ppo": ours, **theirs}, ROUNDS, name)
        for peer in theirs.values():
            peer.process.wait(60)
    return [finding(f"ppo_vs_{method}_{name}", median_ratio(seconds[method], seconds["ppo"])) for method in METHODS]


def main() -> list[Finding]:
    found = []
    for name in sys.argv[2:] or LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            found += measure(name, Path(folder))
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(FINDINGS.dump_json(main()))
