"""Metrics that merge correctly: a name maps to a (sum, weight), so that averages of averages cannot go wrong."""

from __future__ import annotations

from collections.abc import Mapping


class Metrics(dict[str, tuple[float, float]]):
    """name -> (sum, weight). `a | b` merges: equal names add up; the value of a name is sum / weight."""

    @classmethod
    def of(cls, weight: float = 1.0, **values: float) -> Metrics:
        """Metrics named by the keywords, `__` for `/`: of(8, loss__sft=0.5) is loss/sft = 0.5 of weight 8."""
        return cls({name.replace("__", "/"): (float(value) * weight, float(weight)) for name, value in values.items()})

    def __or__(self, other: Mapping[str, tuple[float, float]]) -> Metrics:  # type: ignore[override]
        merged = Metrics(self)
        for name, (total, weight) in other.items():
            before = merged.get(name, (0.0, 0.0))
            merged[name] = (before[0] + total, before[1] + weight)
        return merged

    def __ior__(self, other: Mapping[str, tuple[float, float]]) -> Metrics:  # type: ignore[override,misc]
        return self | other

    def values_by_name(self) -> dict[str, float]:
        """Each name's average; names of weight 0 are left out."""
        return {name: total / weight for name, (total, weight) in sorted(self.items()) if weight}

    def mean(self, name: str) -> float:
        """The average of one name; KeyError when nothing was recorded under it."""
        total, weight = self[name]
        return total / weight


def merge(parts: list[Metrics]) -> Metrics:
    """All parts merged."""
    merged = Metrics()
    for part in parts:
        merged = merged | part
    return merged
