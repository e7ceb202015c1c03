"""What is wanted, of whom, and under which keys.

Answers are asked for breadth first (the first of every problem, then the second ...), so that a stop leaves every
problem something. Nothing here grows with the number of answers: keys are made when they are looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple, TypeVar

from distill.core.config import canonical
from distill.core.plugins import Choice
from distill.core.protocols import Engine
from distill.core.records import Message, ModelIdentity, Problem, Sampling
from distill.rollout.meter import Prices
from distill.text.think import THINK, Dialect

T = TypeVar("T")


@dataclass(frozen=True)
class Prefix:
    """The beginning of an answer that is to be continued: fed after the prompt as it is, and part of what is kept."""

    ids: tuple[int, ...]
    text: str
    """What the ids say."""
    thinking: int | None
    """How many of them are thinking, its end included; None: thinking goes on."""


@dataclass(frozen=True)
class Ask:
    """Answers wanted to one problem."""

    problem: Problem
    """As it is asked: system prompt, instruction and hint are in its messages; the id is the problem's own."""
    indices: range
    rationalised: bool = False
    """Asked with a hint: such answers are marked, and keep neither the prompt's ids nor log-probabilities."""
    prefix: Prefix | None = None
    """Continue from here: only what follows is bought, under a key that these ids are part of. The limit is that of the
    whole answer."""


@dataclass(frozen=True)
class Teacher:
    """Who answers."""

    engine: Choice
    model: str
    revision: str | None = None
    dialect: Dialect = THINK
    """How its reasoning is delimited."""
    prices: Prices | None = None
    """None: unknown."""

    @cached_property
    def identity(self) -> ModelIdentity:
        """Its identity, without loading it."""
        return identify(self.engine, self.model, self.revision)

    def build(self) -> Engine:
        """Load it, or connect to it."""
        module = self.engine.module()
        more = () if self.revision is None else (self.revision,)
        engine: Engine = module.build(self.engine.config, self.model, *more)
        return engine

    def release(self, engine: Engine) -> None:
        """Free what `build` gave, at the end of a call; who asks in several calls may keep it."""
        engine.close()


class Loaded:
    """An engine that stays from one call to the next; several ways of asking one model share it."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def close(self) -> None:
        """Free it."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


@dataclass(frozen=True)
class Standing(Teacher):
    """A teacher that is loaded once for several calls, and only if something has to be bought."""

    loaded: Loaded = field(default_factory=Loaded, compare=False)

    def build(self) -> Engine:
        """Load it the first time."""
        if self.loaded.engine is None:
            self.loaded.engine = super().build()
        return self.loaded.engine

    def release(self, engine: Engine) -> None:
        """It stays."""
        assert engine is self.loaded.engine


def as_asked(problem: Problem, *, system: str | None = None, after: Iterable[str | None] = ()) -> Problem:
    """The problem as it is put to a model; its id stays.

    A system prompt goes before its turns, unless it brought its own; texts go, in their order, after its last user
    turn, each on a line of its own. What is None or empty adds nothing.
    """
    messages = list(problem.messages)
    if system and not any(message.role == "system" for message in messages):
        messages.insert(0, Message("system", system))
    for text in after:
        if text:
            last = max(place for place, message in enumerate(messages) if message.role == "user")
            messages[last] = Message("user", f"{messages[last].content}\n{text}")
    return replace(problem, messages=tuple(messages))


def identify(engine: Choice, model: str, revision: str | None = None) -> ModelIdentity:
    """Identity of a model on an engine, without loading it."""
    more = () if revision is None else (revision,)
    identity: ModelIdentity = engine.module().identify(engine.config, model, *more)
    return identity


class Wanted(NamedTuple):
    """One answer that is wanted: its key, the place of its ask, its sample index."""

    key: str
    place: int
    number: int


class Plan:
    """All answers that are wanted, with their keys; the same digests as `sample_key`, at a fraction of its time.

    A key is the digest of canonical JSON whose first member is the index: what follows is made once a problem.
    """

    def __init__(self, asks: Iterable[Ask], sampling: Sampling, identity: ModelIdentity) -> None:
        self.asks: Sequence[Ask] = list(asks)
        self.sampling, self.identity = sampling, identity
        self._tails = [_tail(ask, canonical(identity.id), canonical(sampling.keyed())) for ask in self.asks]
        self.total = sum(len(ask.indices) for ask in self.asks)

    def key(self, place: int, index: int) -> str:
        """`sample_key` of answer `index` to the ask at `place`."""
        return hashlib.sha256(b'{"index":%d%b' % (index, self._tails[place])).hexdigest()

    def breadth_first(self) -> Iterator[Wanted]:
        """Every answer: the first index of each ask, then the second ..."""
        left = [place for place, ask in enumerate(self.asks) if ask.indices]
        turn = 0
        while left:
            for place in left:
                index = self.asks[place].indices[turn]
                yield Wanted(self.key(place, index), place, index)
            turn += 1
            left = [place for place in left if len(self.asks[place].indices) > turn]

    def in_order(self) -> Iterator[Wanted]:
        """Every answer, in order of the asks and of their indices."""
        for place, ask in enumerate(self.asks):
            for index in ask.indices:
                yield Wanted(self.key(place, index), place, index)

    def sampling_of(self, ask: Ask) -> Sampling:
        """How one ask is drawn."""
        return replace(self.sampling, top_logprobs=0) if ask.rationalised else self.sampling

    def by_logprobs(self, chunk: Sequence[Wanted]) -> Iterator[tuple[int, list[Wanted]]]:
        """A chunk, apart by how many log-probabilities a token its answers must have."""
        if not self.sampling.top_logprobs:
            yield 0, list(chunk)
            return
        for rationalised in (False, True):
            part = [wanted for wanted in chunk if self.asks[wanted.place].rationalised == rationalised]
            if part:
                yield 0 if rationalised else self.sampling.top_logprobs, part


def _tail(ask: Ask, model: str, sampling: str) -> bytes:
    """What follows the index in the JSON that a key is the digest of; `model` and `sampling` are JSON already."""
    messages = canonical([[turn.role, turn.content] for turn in ask.problem.messages])
    prefix = "" if ask.prefix is None else f',"prefix":{canonical(list(ask.prefix.ids))}'
    return f',"messages":{messages},"model":{model}{prefix},"sampling":{sampling}}}'.encode()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
