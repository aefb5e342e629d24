"""Synthetic instruction worlds with a hidden gold score. A recipe names one as `world:NAME`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Protocol

from pit_ray.data.worlds import notes
from pit_ray.errors import ConfigError
from pit_ray.records import PreferencePair

PREFIX = "world:"


class World(Protocol):
    """A source of preference pairs whose quality is known exactly."""

    NAME: str

    def pairs(self, count: int, seed: int) -> list[PreferencePair]:
        """`count` pairs labelled by noisy draws from the gold score, uids 0 to count − 1."""

    def gold(self, prompt: str, response: str) -> float:
        """The hidden true quality of a response; used for labelling and for evaluation, never in training."""


WORLDS: dict[str, World] = {notes.NAME: notes}  # type: ignore[dict-item]


def find_world(source: str, key: str = "data.source") -> World | None:
    """The world that `world:NAME`, given as `key`, names; None when the source is no world; ConfigError when there is
    no such world."""
    if not source.startswith(PREFIX):
        return None
    name = source.removeprefix(PREFIX)
    if name not in WORLDS:
        near = difflib.get_close_matches(name, WORLDS, n=1) or sorted(WORLDS)
        raise ConfigError(f"{key}: no world '{name}'; did you mean '{PREFIX}{near[0]}'?")
    return WORLDS[name]


def base_folder(name: str) -> Path:
    """The tiny pretrained model that ships with a world."""
    return Path(__file__).parent / f"{name}_base"
