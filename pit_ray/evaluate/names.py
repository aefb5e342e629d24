"""What the stages, systems and comparisons of a run are called on pages for people."""

from __future__ import annotations

import re

from pit_ray.evaluate.contests import STEP
from pit_ray.evaluate.evaluation_folder import SystemInfo

STAGES = {
    "sft_policy": "policy, SFT",
    "sft_improver": "improver, SFT",
    "reward": "reward model",
    "gap_reward": "gap reward model",
    "ppo_policy": "policy, RL",
    "ppo_improver": "improver, RL",
    "data": "data",
    "evaluate": "evaluation",
}
"""PIT's, in the order of a run."""
OTHER_STAGES = {
    "teach": "feedback to learn from",
    "sft_taught": "Self-Refine, SFT",
    "labels": "labelled questions",
    "all_labels": "all labelled questions",
    "sft_qa": "labels, SFT",
    "sft_qa_long": "labels, longer SFT",
    "meta": "meta-skill corpus",
    "sft_meta": "meta-skills, SFT",
    "rationales": "gold rationales",
    "all_rationales": "all gold rationales",
    "sft_rationale": "gold rationales, SFT",
    "sft_rationale_long": "gold rationales, longer SFT",
    "lmsi": "LMSI, samples",
    "sft_lmsi": "LMSI, SFT",
}
NUMBERED_STAGES = {
    "round": "round {}, own answers",
    "mix": "round {}, examples",
    "sft_round": "round {}, SFT",
    "edit": "iteration {}, edited trajectories",
    "sft_tripost": "iteration {}, SFT",
    "improved": "round {}, improved responses",
    "sft_distilled": "round {}, SFT",
}
COMPARED = {
    "improver_vs_policy": "improver vs. policy",
    "sft_improver_vs_policy": "SFT improver vs. policy",
    "policy_vs_sft_policy": "policy vs. SFT policy",
    "best_of_2_vs_policy": "best of 2 vs. policy",
    STEP: "improver vs. one revision less",
}
SYSTEMS = {
    "sft_policy": "SFT policy",
    "sft_improver": "SFT improver",
    "ppo_policy": "policy",
    "self_refine": "Self-Refine",
    "pit": "PIT",
    "sft_qa": "SFT on labels",
    "sft_qa_long": "longer SFT on labels",
    "sft_meta": "SFT on meta-skills",
    "sft_rationale": "SFT on gold rationales",
    "sft_rationale_long": "longer SFT on gold rationales",
    "sft_lmsi": "LMSI",
}
NUMBERED_SYSTEMS = {
    "sft_round": "SELF, round {}",
    "sft_tripost": "TriPosT, iteration {}",
    "sft_distilled": "distilled policy, round {}",
}
ENDINGS = {
    "_refined": ", refining itself",
    "_corrected": ", correcting itself",
    "_votes": ", voting",
    "_pit": ", revised by PIT",
}
"""What a contestant's name says behind that of the model whose answers it begins with."""
NUMBER = re.compile(r"(.+)_(\d+)")
ROUNDS = re.compile(r"(_kept|_stopped)?(_\d+)?$")
"""What the name of an improver as a system says behind the improver's own."""


def stage_name(stage: str) -> str:
    found = STAGES.get(stage) or OTHER_STAGES.get(stage)
    return found or _numbered(stage, NUMBERED_STAGES) or stage


def contestant_name(name: str) -> str:
    """Of what a method compares, whatever the rounds."""
    for ending, words in ENDINGS.items():
        if name.endswith(ending):
            return contestant_name(name.removesuffix(ending)) + words
    return SYSTEMS.get(name) or _numbered(name, NUMBERED_SYSTEMS) or name.replace("_", " ")


def system_name(name: str, info: SystemInfo | None) -> str:
    """Of a system without its rounds, which `rounds_of` tells."""
    return contestant_name(ROUNDS.sub("", name) if info and info.iteration else name)


def rounds_of(info: SystemInfo | None) -> str:
    """How often a system revised: "2", "up to 2" where its own rule chose, "–" where it did not revise."""
    if info is None or not info.iteration:
        return "–"
    return f"up to {info.iteration}" if info.stopping_rule else str(info.iteration)


def whole_name(name: str, info: SystemInfo | None) -> str:
    """Of a system with its rounds."""
    rounds = rounds_of(info)
    return system_name(name, info) + ("" if rounds == "–" else f", revised {rounds}×")


def compared_name(name: str) -> str:
    ours, vs, theirs = name.partition("_vs_")
    both = f"{contestant_name(ours)} vs. {contestant_name(theirs)}" if vs else name
    return COMPARED.get(name, both)


def _numbered(name: str, words: dict[str, str]) -> str | None:
    found = NUMBER.fullmatch(name)
    return words[found[1]].format(found[2]) if found and found[1] in words else None
