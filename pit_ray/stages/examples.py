"""Collecting examples for supervised fine-tuning from dialogues: answers, feedback on them, refinements."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pit_ray.data.parquet import read_examples, write_examples, write_table
from pit_ray.errors import DataError
from pit_ray.records import Examples, Ragged
from pit_ray.run_folder import COUNTS
from pit_ray.stages.context import RunContext

COLUMNS = ("uid", "kind", "before", "after", "weight")
EXAMPLES, TEXT = "examples.parquet", "examples_text.parquet"


@dataclass
class ExampleRows:
    """Examples in the making; contexts are those in which an improver asks (see improvers/dialogues.py)."""

    context: RunContext
    uid: list[int] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    """What each example teaches: answer, feedback, refinement."""
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.uid)

    def answer(self, uid: int, x: np.ndarray, y: np.ndarray, weight: float = 1.0) -> None:
        """y after x."""
        self._add(uid, "answer", [x], y, weight)

    def feedback(self, uid: int, x: np.ndarray, y: np.ndarray, said: np.ndarray, weight: float = 1.0) -> None:
        """What is to be said of y."""
        self._add(uid, "feedback", [x, y, self.context.feedback_bridge], said, weight)

    def refinement(
        self, uid: int, x: np.ndarray, y: np.ndarray, said: np.ndarray, better: np.ndarray, weight: float = 1.0
    ) -> None:
        """What is to be written after y and what was said of it."""
        before = [x, y, self.context.feedback_bridge, said, self.context.refine_bridge]
        self._add(uid, "refinement", before, better, weight)

    def _add(self, uid: int, kind: str, before: list[np.ndarray], after: np.ndarray, weight: float) -> None:
        if weight == 0:
            return
        self.uid.append(int(uid))
        self.kind.append(kind)
        self.before.append(np.concatenate(before))
        self.after.append(np.append(after, self.context.renderer.eos))
        self.weight.append(weight)

    def extend(self, other: ExampleRows) -> None:
        for name in COLUMNS:
            getattr(self, name).extend(getattr(other, name))

    def without_repeats(self) -> ExampleRows:
        """Each context and response once, the first of them."""
        seen: set[tuple[bytes, bytes]] = set()
        kept = []
        for i, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            key = (before.tobytes(), after.tobytes())
            if key not in seen:
                kept.append(i)
                seen.add(key)
        return self.take(kept)

    def take(self, rows: list[int] | np.ndarray) -> ExampleRows:
        picked = ExampleRows(self.context)
        for name in COLUMNS:
            column = getattr(self, name)
            getattr(picked, name).extend(column[int(i)] for i in rows)
        return picked

    def write(self, stage: str, replayed: str | None = None) -> None:
        """Into the stage's folder, for the trainer and, as text, for people; behind what the stage `replayed` has
        written, where one is given. DataError when there is none."""
        if not self.uid:
            raise DataError(
                f"stage {stage} has made no example to train on; {COUNTS} in its folder says what became of each"
            )
        folder, text = self.context.folder.stage(stage), self.context.renderer.tokenizer.decode
        examples = Examples(
            np.array(self.uid, np.int64),
            Ragged.of(self.before),
            Ragged.of(self.after),
            np.array(self.weight, np.float32),
        )
        table = pa.table({
            "uid": self.uid, "kind": self.kind, "weight": self.weight,
            "context": [text(row) for row in self.before], "response": [text(row) for row in self.after],
        })  # fmt: skip
        if replayed is not None:
            earlier = self.context.folder.stage(replayed)
            examples = Examples.concatenate([read_examples(earlier / EXAMPLES), examples])
            table = pa.concat_tables([pq.read_table(earlier / TEXT), table])
        write_examples(examples, folder / EXAMPLES)
        write_table(table, folder / TEXT)
