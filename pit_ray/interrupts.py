"""SIGINT and SIGTERM: one ends the run in good order, a second one at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context manager: the first signal raises KeyboardInterrupt, put off between `hold` and `release`; the block
    then ends in SystemExit with 128 + the signal's number. A second signal does what it does to any program.

    It must be entered in the main thread; one that was not entered never interrupts.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and self._received is not None:
            raise SystemExit(128 + self._received) from None

    def hold(self) -> None:
        """From here on a signal waits."""
        self._held = True

    def release(self) -> None:
        """A signal that waited takes effect here."""
        self._held = False
        if self._received is not None:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._received = number
        if not self._held:
            raise KeyboardInterrupt
