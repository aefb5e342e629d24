"""Synthetic instruction worlds with a hidden gold score. A recipe names one as `world:NAME`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pit_ray.data.worlds.notes import Notes
from pit_ray.data.worlds.slots import SlotWorld
from pit_ray.data.worlds.timetables import Timetables
from pit_ray.errors import ConfigError

PREFIX = "world:"


WORLDS: dict[str, SlotWorld[Any]] = {world.name: world for world in (Notes(), Timetables())}


def find_world(source: str, key: str = "data.source") -> SlotWorld[Any] | None:
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
