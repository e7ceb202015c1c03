"""Several sources in one, by counts or weights: so many problems of maths, so many of code, the rest without reasoning.

    problems:
      source:
        mixture:
          parts:
            maths: {source: {math: {path: math.jsonl}}, count: 26000}
            general: {source: {jsonl: {path: general.jsonl, gold: null}}, count: 66000, thinking: false}

A part's problems are chosen by a hash of their text, so that neither the order of the parts nor that of the rows
matters; a question that two parts have belongs to the first of them by name. Each keeps its source and licence.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import Problem, Split
from distill.core.stage import say

PRIMARY = "parts"


class Part(Settings):
    """One part of a mixture."""

    source: Annotated[Choice, ChoiceOf("distill.sources", "source")]
    """Where its problems come from: any source."""
    count: PositiveInt | None = None
    """How many problems it gives (for a source with splits of its own: to train)."""
    weight: PositiveFloat | None = None
    """Its share of the whole, against the other parts' weights."""
    domain: str | None = None
    """Its domain in every record. None: the part's name; empty: as the source has it."""
    thinking: bool | None = None
    """`false`: its problems are to be answered without thinking. None leaves it to the source and to `sample:`."""
    dataset: str = ""
    """Where its data is from, for records that do not say."""
    licence: str = ""
    """Its licence, for records that do not say."""


class Config(Settings):
    """Settings of the `mixture` source."""

    parts: dict[str, Part] = Field(min_length=1)
    """The parts by name. All have a `count`, or all have a `weight`."""
    total: PositiveInt | None = None
    """Problems in all, for weights. None: as many as the scarcest part allows."""
    short: Literal["refuse", "take"] = "refuse"
    """A part that has fewer problems than its count stops the stage, or gives what it has, which is said."""
    seed: NonNegativeInt = 0
    """Another choice among each part's problems."""

    @model_validator(mode="after")
    def _counts_or_weights(self) -> Config:
        for name, part in self.parts.items():
            if (part.count is None) == (part.weight is None):
                raise ValueError(f"part `{name}` needs either `count` or `weight`")
        counted = {part.count is not None for part in self.parts.values()}
        if len(counted) > 1:
            raise ValueError("some parts have a `count` and some a `weight`; give all the same")
        if self.total is not None and True in counted:
            raise ValueError("`total` is for parts with a `weight`")
        return self

    def keyed(self) -> dict[str, Any]:
        """As always, for every part: places of files do not count."""
        kept = super().keyed()
        return {**kept, "parts": {name: part.keyed() for name, part in self.parts.items()}}


def externals(config: Config) -> dict[str, str]:
    """What the parts' sources read."""
    return {
        f"{name} {key}": value
        for name, part in sorted(config.parts.items())
        for key, value in getattr(part.source.module(), "externals", lambda _: {})(part.source.config).items()
    }


def own_split(config: Config) -> bool:
    """Whether the parts come with their splits. Raises DistillError where only some do."""
    own = {name: bool(part.source.module().own_split(part.source.config)) for name, part in config.parts.items()}
    if len(set(own.values())) > 1:
        having, lacking = (sorted(name for name, has in own.items() if has is it)[0] for it in (True, False))
        raise DistillError(
            f"problems: mixture: part `{having}` comes with its split and part `{lacking}` does not; "
            f"set `split` in the source of `{lacking}`, or let the hash part both"
        )
    return next(iter(own.values()))


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The chosen problems of every part. With splits of their own, dev and test come whole, up to the stage's limits.

    Raises DistillError where a part is short, unless `short` is `take`.
    """
    own = own_split(config)
    limits = _limits(config)
    owner: dict[str, str] = {}
    pools: dict[str, _Pool] = {}
    for name, part in sorted(config.parts.items()):
        wanted: dict[Split, int | None] = {**counts, "train": limits[name]} if own else dict(counts)
        pool = pools[name] = _Pool(limits[name], config.seed)
        for problem in part.source.module().build(part.source.config, wanted):
            problem = _marked(problem, name, part)
            if problem.split != "train":
                yield problem
            elif owner.setdefault(problem.id, name) == name:
                pool.add(problem)
            else:
                pool.elsewhere += 1
    if any(part.weight is not None for part in config.parts.values()) and config.total is None:
        weights = {name: part.weight or 0.0 for name, part in config.parts.items()}
        whole = min(pool.size / weights[name] for name, pool in pools.items())
        limits = {name: math.floor(whole * weight + 1e-9) for name, weight in weights.items()}
    shown = []
    for name, pool in pools.items():
        limit = limits[name] or 0
        if pool.size < limit and config.short == "refuse":
            shared = f" ({pool.elsewhere:,} more are in an earlier part, too)" if pool.elsewhere else ""
            raise DistillError(
                f"problems: mixture: part `{name}` has {pool.size:,} problems, {limit:,} are wanted{shared}; "
                "lower its share, add to its source, or set `short: take`"
            )
        shown.append(f"{name} {min(limit, pool.size):,} of {pool.size:,}")
        if pool.size < limit:
            shown[-1] += f" ({limit:,} wanted)"
        yield from pool.first(limit)
    say(f"problems  mixture: {', '.join(shown)}")


class _Pool:
    """The problems of one part that come first by hash, at most `limit` of them; repeats stay with their problem."""

    def __init__(self, limit: int | None, seed: int) -> None:
        self.limit = limit
        self.seed = seed
        self.elsewhere = 0
        self._seen: set[str] = set()
        self._kept: dict[str, list[Problem]] = {}
        self._last: list[tuple[int, str]] = []

    @property
    def size(self) -> int:
        """How many different problems there were."""
        return len(self._seen)

    def add(self, problem: Problem) -> None:
        if problem.id in self._kept:
            self._kept[problem.id].append(problem)
        if problem.id in self._seen:
            return
        self._seen.add(problem.id)
        self._kept[problem.id] = [problem]
        heapq.heappush(self._last, (-self._place(problem.id), problem.id))
        if self.limit is not None and len(self._kept) > self.limit:
            del self._kept[heapq.heappop(self._last)[1]]

    def first(self, n: int) -> Iterable[Problem]:
        """The first `n`, repeats with them."""
        for key in sorted(self._kept, key=self._place)[:n]:
            yield from self._kept[key]

    def _place(self, key: str) -> int:
        return int(digest(["mixture", self.seed, key])[:16], 16)


def _limits(config: Config) -> dict[str, int | None]:
    """How many each part gives; None where only its own size can say. Weights are rounded so that they add up."""
    weights = {name: part.weight for name, part in config.parts.items() if part.weight is not None}
    if not weights:
        return {name: part.count for name, part in config.parts.items()}
    if config.total is None:
        return dict.fromkeys(config.parts)
    exact = {name: config.total * weight / math.fsum(weights.values()) for name, weight in weights.items()}
    limits = Counter({name: math.floor(share) for name, share in exact.items()})
    by_rest = sorted(exact, key=lambda name: (limits[name] - exact[name], name))
    limits.update(by_rest[: config.total - limits.total()])
    return dict(limits)


def _marked(problem: Problem, name: str, part: Part) -> Problem:
    return replace(
        problem,
        domain=name if part.domain is None else part.domain or problem.domain,
        thinking=problem.thinking if part.thinking is None else part.thinking,
        source=problem.source or part.dataset,
        licence=problem.licence or part.licence,
    )
