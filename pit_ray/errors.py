"""The errors a user sees: what is wrong, where, and the nearest right thing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from pit_ray.secrets import masked

SHOWN = 20
"""Names that a message lists."""
LONGEST = 80
"""Characters that a message quotes of one name or value."""
LINE = 320
"""Characters that a message quotes of a path, or of what another library says."""


class PitRayError(Exception):
    """Base of every error whose message is meant for the user; the command prints it without a traceback.
    Secrets in the message are masked, since libraries quote what they were given."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class ConfigError(PitRayError):
    """The configuration is wrong; the message names the key and the nearest valid value."""


class DataError(PitRayError):
    """The data or a model folder is wrong; the message names the file and the line or column."""


class TrainingError(PitRayError):
    """Training cannot go on (NaN, KL limit, no tokens to learn from); the message names the stage and step."""


class InfraError(PitRayError):
    """A process, machine or engine failed; the message names it and the last thing it did."""


class GroupLost(InfraError):
    """Processes died that only work together: the stage must go on from its last checkpoint, with new ones."""


def short(value: object, longest: int = LONGEST) -> str:
    """The beginning of a name or value that came from outside, which may be of any length."""
    text = str(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def cause(error: BaseException) -> str:
    """What another library's error says, in a line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return short(lines[0], LINE)


def listed(names: Iterable[object]) -> str:
    """Names as a message shows them: the first few, each by its beginning."""
    found = [short(name) for name in names]
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (", ".join(found[:SHOWN]) or "none") + more


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message: which of `names` may have been meant by `name`; empty where none is near."""
    known = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name[:LONGEST].lower(), known, n=1, cutoff=0.6)
    return f"; the nearest is {known[close[0]]!r}" if close else ""


def no_such_path(path: Path) -> str:
    """What is missing of a path that does not exist, where, and the nearest name there."""
    missing = path
    while not os.path.isdir(missing.parent):  # False also for what cannot be a path
        missing = missing.parent
    names = [entry.name for entry in missing.parent.iterdir()]
    return f"there is no {short(missing.name)!r} in {missing.parent.resolve()}{nearest(missing.name, names)}"
