"""Where a run's metrics go: RUN/metrics.jsonl always, Weights & Biases when enabled, and the console."""

from __future__ import annotations

import json
import math
import netrc
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pit_ray.config.tree import Tracking
from pit_ray.errors import DataError
from pit_ray.metrics import Metrics
from pit_ray.progress import Progress, duration
from pit_ray.run_folder import write_text, writing
from pit_ray.secrets import masked

JOINERS = "\u200c\u200d"
"""Zero-width characters that writing systems and emoji need; harmless, so left as they are."""


def visible(text: str) -> str:
    """`text` with every control, bidirectional and other invisible character but newline and tab written as its code
    (<U+001B> for escape), so that a model's words can neither drive a terminal nor hide in a page."""
    return "".join(_visible(c) for c in text)


def _visible(character: str) -> str:
    if character in "\n\t" or character in JOINERS:
        return character
    invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return f"<U+{ord(character):04X}>" if invisible else character


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of RUN/metrics.jsonl in order; [] when there is none yet. A torn last line (its writer was killed)
    is left out; any other unreadable line raises DataError."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict) or not {"stage", "phase", "step"} <= record.keys():
            raise DataError(f"{path}, line {number}: not a metrics record: it needs stage, phase and step")
        records.append(record)
    return records


class Tracker:
    """Records the metrics of one run; a context manager. Nothing that happens to wandb stops the run."""

    def __init__(
        self, run: Path, tracking: Tracking, config_dump: Mapping[str, Any], console: Console | None = None
    ) -> None:
        """`config_dump` is the resolved configuration as plain values; `console` defaults to standard output."""
        self.run = run
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []
        """Told of each step's record."""
        self._path = run / "metrics.jsonl"
        self._tracking = tracking
        self._config = dict(config_dump)
        self._wandb: Any = None
        self._progress: Progress | None = None
        # True where a display that redraws is demanded, None where rich may look whether this is a terminal.
        forced = True if tracking.console == "live" else None
        self._console = console or Console(force_terminal=forced)
        live = tracking.console == "live" or (tracking.console == "auto" and self._console.is_terminal)
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4) if live else None
        run.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            # The next record must not continue a torn line.
            self._rewrite(read_metrics(run))

    def __enter__(self) -> Tracker:
        if self._tracking.wandb:
            self._wandb = self._start_wandb()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._wandb:
            self._to_wandb("finish", exit_code=0 if kind is None else 1)
        if self._tracking.wandb:
            with suppress(Exception):  # as above
                import wandb

                wandb.teardown()  # its service would outlive the run

    def begin(self, stage: str, total_steps: int) -> None:
        """A stage begins, or goes on after an interruption; `total_steps` counts all its steps (0: unknown)."""
        self._progress = Progress(stage, total_steps)
        if not self._live:
            self.note(f"{stage}: {total_steps} steps" if total_steps else f"{stage} ...")
        if self._wandb:
            # Every stage counts its own steps, which wandb's single counter cannot.
            self._to_wandb("define_metric", f"{stage}/step")
            self._to_wandb("define_metric", f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, phase: str, step: int, metrics: Metrics) -> None:
        """Records the finished step `step`, counted from 0 over the whole stage. Values that are not finite are
        written as null."""
        values = metrics.values_by_name()
        record: dict[str, Any] = {"stage": stage, "phase": phase, "step": step, "time": time.time()}
        record |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        if self._wandb:
            self._to_wandb("log", {f"{stage}/{name}": value for name, value in {**values, "step": step}.items()})
        if self._progress is None or self._progress.stage != stage:
            self._progress = Progress(stage, 0)
        self._progress.advance(phase, step, values)
        if not self._live:
            self._print(self._progress.line(), record)
        for listener in self.listeners:
            listener(record)

    def end(self, stage: str, seconds: float) -> None:
        """A stage is finished; `seconds` is what it took in all."""
        self._progress = None
        self.note(f"{stage} done in {duration(seconds)}")

    def note(self, text: str) -> None:
        """Prints a message; its control characters are made visible, its secrets masked."""
        self._print(masked(text), {"time": time.time(), "text": masked(text)})

    def rewind(self, stage: str, step: int) -> None:
        """Drops the records of `stage` from `step` on, before the stage is resumed at that step."""
        records = read_metrics(self.run)
        kept = [record for record in records if record["stage"] != stage or record["step"] < step]
        if len(kept) < len(records):
            self._rewrite(kept)

    def _rewrite(self, records: Iterable[dict[str, Any]]) -> None:
        write_text(self._path, "".join(_line(record) for record in records))

    def _print(self, text: str, record: Mapping[str, Any]) -> None:
        """A line for people, or for programs where they are to read the log."""
        line = Text(_line(record).rstrip()) if self._tracking.console == "json" else self._text(text)
        self._console.print(line, soft_wrap=True, highlight=False)

    def _text(self, text: str, style: str = "") -> Text:
        # A terminal that cannot show a character gets its code, not an error.
        encoding = self._console.encoding
        return Text(visible(text).encode(encoding, "backslashreplace").decode(encoding), style=style)

    def _render(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Text()
        total = progress.total or None
        bar = ProgressBar(total=total, completed=progress.done, width=24, pulse=total is None)
        head = Table.grid(padding=(0, 2))
        stage, phase = self._text(progress.stage, "bold"), self._text(progress.phase, "cyan")
        head.add_row(stage, phase, bar, self._text(progress.clock()))
        values = self._text(progress.shown() + progress.speed(), "green")
        values.no_wrap, values.overflow = True, "ellipsis"
        return Group(head, values)

    def _start_wandb(self) -> Any:
        """A wandb run, offline when it cannot be online, or None when there cannot be one."""
        # An offline run must not touch the network; unless told otherwise wandb would report its own errors home.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            # Imported here: it takes a second, and a run without it should not pay.
            import wandb

            settings = wandb.setup(wandb.Settings(silent=True)).settings
            if settings.mode == "disabled":
                return None
            if settings.mode != "offline" and _logged_in(settings.base_url, wandb.Settings().base_url):
                return self._init_wandb("online")
        except Exception as error:  # tracking is a convenience: whatever goes wrong in it, the run goes on
            self.note(f"wandb could not start: {error}")
        try:
            return self._init_wandb("offline")
        except Exception as error:  # as above
            self.note(f"wandb could not start offline: {error}")
        return None

    def _init_wandb(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        return wandb.init(
            project=self._tracking.project,
            name=self.run.name,
            group=self.run.name,
            dir=self.run,
            config=self._config,
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=30, finish_timeout=60),
        )

    def _to_wandb(self, method: str, *args: Any, **options: Any) -> None:
        try:
            getattr(self._wandb, method)(*args, **options)
        except Exception as error:  # as above
            self._wandb = None
            self.note(f"wandb stopped, the run goes on without it: {error}")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _logged_in(base_url: str, public_url: str) -> bool:
    """Whether wandb will find a key for the server at `base_url` by itself; where it does not, it would ask. Keys of
    the public server are also filed under the name that it had at first."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        keys = {host: key for host, (_, _, key) in netrc.netrc(path).hosts.items()}
    except (OSError, netrc.NetrcParseError):
        return False
    names = [urlsplit(base_url).netloc] + (["api.wandb.ai"] if base_url == public_url else [])
    return any(keys.get(name) for name in names)
