"""Feedback on a world's responses, in the world's own words: one remark for each fault, in order, each ended by the
sign that ends the world's sentences, and `improve` at the end; or one phrase when nothing is wrong. In "notes":

    um lamp .                 a verbal tic, with the next word, so that it can be found (if there is one: else um .)
    you are a fool .          rudeness or padding, as it stands
    before glove .            said before
    not coat .                nobody asked for it
    dear anna for ben .       another name in the greeting, and the right one before it
    dear anna . tell about lamp . ask for the key . best wishes .        missing: greeting, thing, wish, closing
    so it is best             nothing is wrong

A remark mostly copies what stands in prompt or response, which is what very small models learn first; and since the
list ends by a word of its own, one that was cut off is not taken for a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pit_ray.data.verifiers import Fault, Review

TIC, BEFORE = "a verbal tic", " before "
RUDE, PADDING = "rude", "padding"
AGAIN, UNASKED, LATE = "said before", "nobody asked for it", "stands after a later one"
MISSING, RIGHT = "missing: ", "it should be: "
"""Reasons of faults; a missing thing's, and a wrong opening's, go on with the words that are missing or right."""

IMPROVE, FOR = "improve", "for"


@dataclass(frozen=True)
class Grammar:
    """How a world's responses are built, and the words of feedback on them. Of several forms, the first is the one that
    we add and name."""

    tics: tuple[str, ...]
    openings: tuple[str, ...]
    """The word before the name."""
    opening_sign: str
    stop: str
    """The sign after each sentence."""
    rude: tuple[str, ...]
    padding: tuple[str, ...]
    """Without their stops."""
    endings: tuple[str, ...]
    request: str
    """What stands before the word of the request in a response."""
    asked: str
    """The same in feedback."""
    thing: str
    """What stands before a missing thing in feedback."""
    again: str
    unasked: str
    late: str
    """What stands before a sentence that was said before, is not asked for or stands after a later one; empty where
    things may stand in any order."""
    fine: str
    """Says that nothing is wrong."""

    def request_of(self, word: str) -> str:
        """A request as feedback names it."""
        return f"{self.asked} {word}"

    @property
    def marks(self) -> dict[str, str]:
        """The word before a sentence, to its reason."""
        marks = {self.again: AGAIN, self.unasked: UNASKED, self.late: LATE}
        return {mark: reason for mark, reason in marks.items() if mark}


def remarks(grammar: Grammar, review: Review) -> str:
    """The feedback that states a world's review."""
    if review.correct:
        return grammar.fine
    return " ".join([*(f"{_remark(grammar, fault)} {grammar.stop}" for fault in review.faults), IMPROVE])


def _remark(grammar: Grammar, fault: Fault) -> str:
    reason = fault.reason
    if reason.startswith(MISSING):
        return reason.removeprefix(MISSING)
    if reason.startswith(RIGHT):
        return f"{reason.removeprefix(RIGHT)} {FOR} {fault.segment}"
    if reason.startswith(TIC):
        return f"{fault.segment} {reason.removeprefix(TIC).removeprefix(BEFORE)}".strip()
    mark = next((mark for mark, marked in grammar.marks.items() if marked == reason), "")
    return f"{mark} {fault.segment}".strip()


def read_remarks(grammar: Grammar, item: Callable[[str], str | None], text: str) -> Review | None:
    """The review that a feedback states, faults numbered from 1; None when it states none. `item` tells what a sentence
    says, as a world's does."""
    words = text.split()
    if words == grammar.fine.split():
        return Review()
    if words[-1:] != [IMPROVE]:
        return None
    faults = []
    for number, remark in enumerate(_split(grammar, words[:-1]), start=1):
        stated = _read(grammar, item, remark)
        if stated is None:
            return None
        faults.append(Fault(number, *stated))
    return Review(tuple(faults)) if faults and not _contradictory(grammar, item, faults) else None


def _split(grammar: Grammar, words: list[str]) -> Iterator[list[str]]:
    """Remarks without their stops; an unfinished one comes as an empty list."""
    remark: list[str] = []
    for word in words:
        # A sentence may begin with a stop, which then is a word of it.
        said = [w for w in remark[1:] if w not in grammar.tics] if remark[:1] and remark[0] in grammar.marks else remark
        if word == grammar.stop and said:
            yield remark
            remark = []
        else:
            remark.append(word)
    if remark:
        yield []


def _read(grammar: Grammar, item: Callable[[str], str | None], remark: list[str]) -> tuple[str, str] | None:
    """Segment and reason of a remark; None when it is none."""
    text = " ".join(remark)
    sentence = _plain(grammar, remark)
    if sentence in grammar.rude:
        return text, RUDE
    if sentence in grammar.padding:
        return text, PADDING
    if text == grammar.endings[0]:
        return "", MISSING + text
    match remark:
        case [tic] if tic in grammar.tics:
            return tic, TIC
        case [tic, word] if tic in grammar.tics and word not in grammar.tics:
            return tic, f"{TIC}{BEFORE}{word}"
        case [mark, *marked] if mark in grammar.marks:
            return _marked(grammar, item, mark, marked)
        case [form, name] if form == grammar.openings[0]:
            return "", f"{MISSING}{form} {name}"
        case [form, name, between, wrong] if form == grammar.openings[0] and between == FOR and name != wrong:
            return wrong, f"{RIGHT}{form} {name}"
        case [*before, word] if " ".join(before) == grammar.asked:
            return "", f"{MISSING}{grammar.request_of(word)}"
    thing = text.removeprefix(f"{grammar.thing} ")
    return ("", MISSING + text) if thing != text and item(thing) == thing else None


def _marked(
    grammar: Grammar, item: Callable[[str], str | None], mark: str, marked: list[str]
) -> tuple[str, str] | None:
    sentence, reason = _plain(grammar, marked), grammar.marks[mark]
    if not sentence or sentence in (*grammar.rude, *grammar.padding):
        return None
    return (" ".join(marked), reason) if reason == UNASKED or item(sentence) else None


def _contradictory(grammar: Grammar, item: Callable[[str], str | None], faults: Sequence[Fault]) -> bool:
    """Whether no response can have all these faults: what is missing is missing once, and was not said."""

    def item_of(fault: Fault) -> str | None:
        return item(_plain(grammar, fault.segment.split()))

    missing = [fault.reason.removeprefix(MISSING) for fault in faults if fault.reason.startswith(MISSING)]
    openings = [fault for fault in faults if f": {grammar.openings[0]} " in fault.reason]
    requests = [remark for remark in missing if remark.startswith(f"{grammar.asked} ")]
    late = [item_of(fault) for fault in faults if fault.reason == LATE]
    again = [item_of(fault) for fault in faults if fault.reason == AGAIN]
    said = {remark for thing in (*late, *again) for remark in (thing, f"{grammar.thing} {thing}")}
    once = [*missing, *late]
    return len(openings) > 1 or len(requests) > 1 or len(set(once)) < len(once) or not said.isdisjoint(missing)


def _plain(grammar: Grammar, words: Sequence[str]) -> str:
    return " ".join(word for word in words if word not in grammar.tics)
