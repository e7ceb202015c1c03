"""How model families delimit reasoning, and how to take it apart without losing a character.

A family's `Dialect` says what its reasoning stands between: a pair of tags, tags with further tags around the answer
(R1-Zero), the channels of gpt-oss's harmony format, or nothing at all. Where the end of thinking is in doubt it is put
later, so that an answer is never read from thinking.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from distill.core.records import ReasoningKind

OPEN, CLOSE = "<think>", "</think>"

Part = tuple[Literal["mark", "reasoning", "answer"], str]
"""A stretch of a completion and what it is; marks are the delimiters and the space around them."""

HARMONY = re.compile(r"<\|(start|channel|constrain|message|end|return|call)\|>")
"""The marks of harmony: `<|start|>ROLE<|channel|>NAME<|message|>CONTENT` and then one of end, return and call."""

BARE_FINAL = "assistantfinal"
"""What is left between a message and the final one where a server drops special tokens from harmony."""


@dataclass(frozen=True)
class Dialect:
    """How a model family delimits reasoning in text.

    `close` empty: its text has no tags and is all answer (reasoning comes in a field, or stays with the provider).
    `answer_open` and `answer_close` stand around the answer, after the reasoning. `channels` True: harmony; the tags
    then mean nothing. `thinker` True declares a model that always thinks, whose text without tags is unfinished;
    False one that need not; None leaves it to the caller. `kind` is what reasoning of this family is worth; None: full.
    """

    open: str = OPEN
    close: str = CLOSE
    answer_open: str = ""
    answer_close: str = ""
    channels: bool = False
    thinker: bool | None = None
    kind: ReasoningKind | None = None


THINK = Dialect()


@dataclass(frozen=True)
class Split:
    """A completion taken apart. `closed` False: thinking never ended, so there is no answer to read."""

    reasoning: str | None
    answer: str
    closed: bool
    parts: tuple[Part, ...] = field(default=(), compare=False, repr=False)
    """The whole completion in order; its texts joined are the completion."""

    @property
    def whole(self) -> str:
        """The completion that was taken apart, to the character."""
        return "".join(text for _, text in self.parts)


def split_think(
    text: str, *, opened: bool = False, thinker: bool = True, dialect: Dialect = THINK, apart: str | None = None
) -> Split:
    """Split a completion into reasoning and final answer, at its last close tag.

    `opened` says that the prompt already opened the block. `thinker` False declares a model that does not think, whose
    text without tags is all answer; a declared thinker without a close tag is unfinished, not "all answer". What the
    dialect declares goes before it. `apart` is reasoning that came in a field of its own: `text` is then the answer.

    >>> split_think("<think>a</think>b")
    Split(reasoning='a', answer='b', closed=True)
    >>> split_think("boxed 7 </think> boxed 8")
    Split(reasoning='boxed 7 ', answer=' boxed 8', closed=True)
    >>> split_think("[THINK]a[/THINK]b", dialect=Dialect("[THINK]", "[/THINK]"))
    Split(reasoning='a', answer='b', closed=True)
    """
    if apart is not None:
        return _made([("reasoning", apart), ("answer", text)], closed=bool(text.strip()))
    declared = thinker if dialect.thinker is None else dialect.thinker
    if dialect.channels:
        return _split_channels(text, opened, declared)
    if not dialect.close:
        return _made([("answer", text)], closed=True)
    close = _last_close(text, dialect)
    if close is not None:
        before, after = _opening(text[: close[0]], dialect), text[close[1] :]
        return _made([*before, ("mark", text[slice(*close)]), *_answer(after, dialect)], closed=True)
    thought = _opening(text, dialect)
    if opened or declared or thought[0][0] == "mark":
        return _made(thought, closed=False)
    return _made([("answer", text)], closed=True)


def join_think(reasoning: str, answer: str, dialect: Dialect = THINK) -> str:
    """The text whose split is (reasoning, answer)."""
    if dialect.channels:
        start = "<|start|>assistant<|channel|>final<|message|>"
        return f"<|channel|>analysis<|message|>{reasoning}<|end|>{start}{answer}<|return|>"
    tagged = f"{dialect.answer_open}{answer}{dialect.answer_close}"
    return f"{dialect.open}{reasoning}{dialect.close}{tagged}"


def thinking_length(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """How many of the drawn ids are thinking: those up to and with the last close tag, all of them where there is none.

    `decode` turns ids into text, special tokens included; a dozen calls, whatever the tokenizer makes of a tag.
    """
    closes = decode(ids).count(CLOSE)
    if closes == 0:
        return len(ids)
    return bisect_left(range(len(ids)), closes, key=lambda n: decode(ids[:n]).count(CLOSE))


@dataclass(frozen=True)
class Span:
    """Where thinking is among the ids of a completion: `ids[start:stop]` are its own, without its tags.

    `end` is how many ids there are up to and with its end tag; None: it never ended. An id that holds the tag's first
    characters and others before them counts as the tag's.
    """

    start: int
    stop: int
    end: int | None


def thinking_span(
    ids: Sequence[int],
    text: str,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    dialect: Dialect = THINK,
) -> Span:
    """Where the thinking of a completion that thinks is. `text` is what the ids say, its stop token apart.

    A tag that is one id is looked for by id; one of several ids by what they say.
    """
    start = 0
    if dialect.open and text.lstrip().startswith(dialect.open):
        start = _up_to(dialect.open, 1, ids, text, encode, decode)
    close = _last_close(text, dialect)
    if close is None:
        return Span(start, len(ids), None)
    end = _up_to(dialect.close, text.count(dialect.close, 0, close[1]), ids, text, encode, decode)
    stop = next(n for n in range(end - 1, -1, -1) if dialect.close in decode(ids[n:end]))
    return Span(start, max(start, stop), end)


def end_of_thinking(dialect: Dialect = THINK) -> str:
    """What ends a thought that was cut off: the family's close tag on a line of its own, as R1's templates write it,
    and what opens the answer."""
    return f"\n{dialect.close}\n\n{dialect.answer_open}"


def _up_to(
    tag: str,
    nth: int,
    ids: Sequence[int],
    text: str,
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
) -> int:
    """How many ids there are up to and with the n-th such tag."""
    alone = encode(tag)
    if len(alone) == 1 and list(ids).count(alone[0]) == text.count(tag):
        places = [n for n, token in enumerate(ids, 1) if token == alone[0]]
        return places[nth - 1]
    return bisect_left(range(len(ids)), nth, key=lambda n: decode(ids[:n]).count(tag))


def _made(parts: list[Part], *, closed: bool) -> Split:
    thoughts = [text for kind, text in parts if kind == "reasoning"]
    answer = "".join(text for kind, text in parts if kind == "answer")
    return Split("\n\n".join(thoughts) if thoughts else None, answer, closed, tuple(parts))


def _opening(text: str, dialect: Dialect) -> list[Part]:
    """Thinking with or without its open tag; a tag counts only where nothing but space stands before it."""
    at = len(text) - len(text.lstrip())
    if dialect.open and text.startswith(dialect.open, at):
        at += len(dialect.open)
        return [("mark", text[:at]), ("reasoning", text[at:])]
    return [("reasoning", text)]


def _last_close(text: str, dialect: Dialect) -> tuple[int, int] | None:
    """Where the last close tag is. With answer tags, the last one that an answer follows at once goes before a bare
    one: an answer may quote a tag.
    """
    if dialect.answer_open:
        pair = re.compile(f"({re.escape(dialect.close)})\\s*{re.escape(dialect.answer_open)}")
        for found in deque(pair.finditer(text), maxlen=1):
            return found.span(1)
    start = text.rfind(dialect.close)
    return None if start < 0 else (start, start + len(dialect.close))


def _answer(text: str, dialect: Dialect) -> list[Part]:
    """What follows the thinking: all of it the answer, or what is between the answer's own tags."""
    begin = text.find(dialect.answer_open) if dialect.answer_open else -1
    if begin < 0:
        return [("answer", text)]
    begin += len(dialect.answer_open)
    end = text.rfind(dialect.answer_close, begin) if dialect.answer_close else -1
    end = len(text) if end < 0 else end
    return [("mark", text[:begin]), ("answer", text[begin:end]), ("mark", text[end:])]


def _split_channels(text: str, opened: bool, thinker: bool) -> Split:
    """Harmony: the answer is the last message, if it is in channel `final`; every other message is reasoning.

    `opened` says that the prompt already began a message of channel `analysis`.
    """
    parts: list[Part] = []
    channel, header, inside, place, marked = "analysis", "", opened, 0, False
    last: int | None = None
    for mark in HARMONY.finditer(text):
        name = mark[1]
        if inside and name in ("channel", "constrain", "message"):
            continue  # a mark that cannot stand in a message's content is a quotation
        marked = True
        piece = text[place : mark.start()]
        if inside:
            last = len(parts)
        else:
            header += piece
        parts += [("reasoning" if inside else "mark", piece), ("mark", mark[0])]
        place = mark.end()
        if name == "message":
            channel, inside = header.split()[0] if header.split() else "", True
        else:
            inside = False
            header = header if name == "constrain" else ""
    rest = text[place:]
    if not marked and not inside:
        return _split_bare_channels(text, thinker)
    if inside:
        last = len(parts)
    parts.append(("reasoning" if inside else "mark", rest))
    closed = last is not None and channel == "final"
    if closed and last is not None:
        parts[last] = ("answer", parts[last][1])
    return _made(parts, closed=closed)


def _split_bare_channels(text: str, thinker: bool) -> Split:
    """Harmony whose special tokens a server has dropped: `analysis...assistantfinal...`."""
    if text.startswith("analysis"):
        head, final, answer = text.rpartition(BARE_FINAL)
        if final:
            thought: list[Part] = [("mark", "analysis"), ("reasoning", head.removeprefix("analysis"))]
            return _made([*thought, ("mark", final), ("answer", answer)], closed=True)
        return _made([("mark", "analysis"), ("reasoning", text.removeprefix("analysis"))], closed=False)
    return _made([("reasoning" if thinker else "answer", text)], closed=not thinker)
