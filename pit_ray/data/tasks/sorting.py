"""Word sorting: `Sort the words alphabetically: oven apple box.`, over a list of common words of our own.

As in TriPosT (arXiv 2310.13522), 2 to 7 words are seen and more (here 8 to 12) are not. A step names the next word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pit_ray.data.tasks.problem import Task, Work, WrongStep

WORDS = tuple(
    """
    acorn actor album anchor angle apple april arrow artist autumn bacon badge baker ball banana barn basin beach bean
    bell belt bench berry bird biscuit blanket boat bone book boot bottle bowl box branch bread brick bridge broom
    brush bucket butter button cabin cable cake camel camera candle canoe carpet carrot castle cave cellar chair chalk
    cheese cherry chest chimney church circle clay cliff clock cloud coal coat coffee coin comb copper corn cotton
    cousin crane cream crown cup curtain daisy dance dentist desert dinner doctor door dragon drawer dream dress drum
    dust eagle ear earth echo egg elbow engine envelope evening fabric farm feather fence field finger fire fish flag
    flour flower fog forest fork fountain fox frame frost fruit garden garlic gate ghost glass glove goat gold grape
    grass hammer harbour harvest hat hill honey horse hotel house ice ink iron island ivory jacket jar jewel juice
    kettle key king kitchen kite knife ladder lake lamp leaf lemon letter library lion map market meadow milk mirror
    moon mountain museum nail needle nest night nut oak ocean onion orange oven owl paint palace paper pencil pepper
    piano picture pillow pocket pond potato queen quilt rain ribbon ring river road roof rope saddle sail salt sand
    school shell ship silver snow spoon star stone sugar table tea tent tiger tower train tree valley village violin
    wall water wheel window winter wood yard zebra
    """.split()
)

_QUESTION = re.compile(r"Sort\s+the\s+words\s+alphabetically\s*:\s*([a-z]+(?:\s+[a-z]+)*)\s*\.")


@dataclass(frozen=True)
class _Words(Work):
    done: tuple[str, ...]
    left: tuple[str, ...]
    """Sorted."""

    @property
    def answer(self) -> str:
        return " ".join((*self.done, *self.left))

    def after(self, step: str) -> _Words:
        if not re.fullmatch(r"[a-z]+", step):
            raise WrongStep("a step names one word")
        if step not in self.left:
            raise WrongStep(f"{step} stands there twice" if step in self.done else f"{step} is not in the list")
        if step != self.left[0]:
            raise WrongStep(f"{self.left[0]} comes before {step}")
        return _Words((*self.done, step), self.left[1:])

    def rest(self) -> list[str]:
        return list(self.left)

    def missing(self) -> str:
        return f"{self.left[0]} is missing"


class WordSorting(Task):
    """See the top of this file."""

    name = "word_sorting"

    def draw(self, rng: np.random.Generator, seen: bool) -> tuple[str, str]:
        length = int(rng.integers(2, 8) if seen else rng.integers(8, 13))
        words = [WORDS[i] for i in rng.choice(len(WORDS), size=length, replace=False)]
        return f"Sort the words alphabetically: {' '.join(words)}.", f"{length} words"

    def read(self, prompt: str) -> Work:
        return _Words((), tuple(sorted(self.find(_QUESTION, prompt)[1].split())))
