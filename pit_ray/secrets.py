"""Passwords, tokens and keys: told by their shape or by the environment that holds them, and masked."""

from __future__ import annotations

import os
import re

MASK = "***"
SHAPES = re.compile(
    r"(?<=://)(?:[^\s/@:]*:[^\s/@]+|[^\s/@:]{20,})(?=@)"  # the user and password of a URL
    r"|(?i:(?<=[?&]token=)|(?<=[?&]key=)|(?<=[?&]signature=)|(?<=\bbearer ))[^\s&'\"]{8,}"
    r"|\b(?:hf_|sk-|gh[opsur]_|github_pat_|xox[abps]-|wandb_v\d_)[\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
)
SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY)$", re.I)
"""What the environment's variables that hold a secret end in: HF_TOKEN, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY."""
SHORTEST = 8
"""Characters of a variable's value below which it is taken for a switch, not a secret."""


def masked(text: str) -> str:
    """`text` with *** in place of every secret: values of the environment's secret variables, passwords in URLs, and
    tokens of known shapes."""
    held = {value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, MASK)
    return SHAPES.sub(MASK, text)
