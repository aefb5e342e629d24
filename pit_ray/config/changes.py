"""How the configuration that a run goes on with differs from the one that it was started with."""

from __future__ import annotations

import json
from typing import Any

UNSETTLED = {
    "run": True,
    "tracking": True,
    "actors": {
        "address": True, "placement_deadline": True, "deadlines": True, "faults": True,
        "rollout": {"workers": True, "cpus": True}, "scorer": {"workers": True, "cpus": True},
        "learner": {"cpus": True},
    },
}  # fmt: skip
"""Keys that decide nothing about the result: they may change when a run goes on."""


def changes_of_result(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two plain trees and decides the result, each as "KEY: BEFORE in the run, NOW now"."""
    return _changes(_settled(before, UNSETTLED), _settled(now, UNSETTLED))


def _changes(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = dict.fromkeys([*before, *now])
        inner = (_changes(before.get(n), now.get(n), f"{key}.{n}" if key else str(n)) for n in names)
        return [change for changes in inner for change in changes]
    return [] if before == now else [f"{key}: {json.dumps(before)} in the run, {json.dumps(now)} now"]


def _settled(plain: dict[str, Any], out: dict[str, Any]) -> dict[str, Any]:
    """What decides the result: everything but where the run lies, how it is watched, on how many machines it stands
    and what it puts up with there. So a run can go on on another cluster."""
    inner = {key: _settled(value, out[key]) for key, value in plain.items() if isinstance(out.get(key), dict)}
    return {key: inner.get(key, value) for key, value in plain.items() if out.get(key) is not True}
