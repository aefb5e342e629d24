"""How far a stage is, in words."""

from __future__ import annotations

import time

SHOWN = (
    ("objective/gap", "gap", "{:+z6.2f}"),
    ("objective/score", "score", "{:+z6.2f}"),
    ("loss/sft", "loss", "{:7.4f}"),
    ("loss/reward", "loss", "{:7.4f}"),
    ("val/accuracy", "accuracy", "{:5.3f}"),
    ("val/validation_accuracy", "accuracy on validation pairs", "{:5.3f}"),
    ("objective/kl", "kl", "{:5.1f}"),
    ("objective/gold", "gold", "{:5.2f}"),
    ("val/response_length", "len", "{:4.0f}"),
    ("time/step", "", "{:6.1f} s"),
)
"""What the console shows of a step, in order: metric, label, format. A score is left out where there is a gap."""


class Progress:
    """How far a stage is, and its last step's values."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.phase, self.total = stage, "", total
        self.done = 0
        self._values: dict[str, float] = {}
        self._began = time.monotonic()
        self._steps_here = 0
        self._per_step = 0.0

    def advance(self, phase: str, step: int, values: dict[str, float]) -> None:
        # What is measured after the last step is recorded under the step that would follow.
        self.phase, self.done, self._values = phase, min(step + 1, self.total or step + 1), values
        self._steps_here += 1
        # Steps before a resume are not this process's: time left follows from the steps that it made itself.
        self._per_step = (time.monotonic() - self._began) / self._steps_here

    def shown(self) -> str:
        """The values that matter, aligned from step to step."""
        parts = []
        for name, label, form in SHOWN:
            if name in self._values and not (name == "objective/score" and "objective/gap" in self._values):
                parts.append(f"{label} {form.format(self._values[name])}".strip())
        return "  ".join(parts)

    def line(self) -> str:
        total = str(self.total) if self.total else "?"
        return f"{self.stage:<12} {self.phase:<9} {self.done:>{max(3, len(total))}}/{total}  {self.shown()}".rstrip()

    def clock(self) -> str:
        """Steps and time left, for the live display."""
        parts = [f"{self.done}/{self.total}"] if self.total else []
        if self.total and self._steps_here:
            parts.append(f"{duration(self._per_step * max(0, self.total - self.done))} left")
        return "  ".join(parts)

    def speed(self) -> str:
        """Tokens per second, for the live display."""
        speed = self._values.get("time/tokens_per_second")
        return "" if speed is None else f"  {speed:,.0f} tokens/s"


def duration(seconds: float) -> str:
    """Seconds in words, for instance "3.9 s", "2 min 05 s" or "1 h 07 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def clock(seconds: float) -> str:
    """Seconds of the epoch as a time of this place."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
