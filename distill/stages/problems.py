"""`problems`: takes problems from a source, parts them into train, dev and test, and says what is odd about them.

The split is decided by a hash of the problem alone, before anything is sampled, so that it does not move when rows are
added; a source that declares its own split keeps it. `train`, `dev` and `test` are limits, filled in the order of
another hash. A problem in two splits is an error. Golds and tests are looked at by the rules of the verifier that will
read them, so that a wrong column is found before the first answer is paid for.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import Field, NonNegativeInt, model_validator

from distill.core import plugins, tables
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import Problem, Split
from distill.core.stage import Report, StageRun
from distill.text.answers import gold_fault
from distill.text.code_tests import tests_fault
from distill.text.gym_tests import parse

VERSION = 2
SPLITS: tuple[Split, ...] = get_args(Split)
SHOWN = 3
"""Examples of each oddity that are printed."""


class Config(Settings):
    """Settings of `problems:`."""

    source: Annotated[Choice, ChoiceOf("distill.sources", "source")] = Field(default="embedded", validate_default=True)
    """Where problems come from: `embedded`, `{gsm8k: {path: train.jsonl}}`, `{jsonl: {path: problems.jsonl}}`."""
    train: NonNegativeInt | None = None
    """At most so many problems to sample and train on; None takes all."""
    dev: NonNegativeInt | None = None
    """At most so many that steer choices."""
    test: NonNegativeInt | None = None
    """At most so many that are read once, at the end."""
    dev_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of all problems that the hash sends to dev, for sources without a split of their own."""
    test_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of all problems that the hash sends to test."""
    max_ungradable: float = Field(default=0.5, ge=0, le=1)
    """More than this share of golds and tests that no answer can be graded against stops the stage. Problems that have
    neither do not count: a majority label, or nothing, may be enough for them."""

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> Config:
        if self.dev_share + self.test_share > 1:
            raise ValueError(f"dev_share + test_share is {self.dev_share + self.test_share:g}, more than all")
        return self

    @property
    def counts(self) -> dict[Split, int | None]:
        """The limit of each split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


@dataclass(frozen=True)
class Parted:
    """Problems with their splits, and what was noticed on the way."""

    problems: list[Problem]
    repeated: int
    """Rows that were there before with the same gold and tests."""
    conflicting: int
    """Problems that were there with another gold or other tests."""
    over_limit: int
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first questions that were conflicting, by the hash of their text."""


def part(
    problems: Iterable[Problem], counts: Mapping[Split, int | None], *, dev_share: float, test_share: float, own: bool
) -> Parted:
    """Give every problem its split and keep at most `counts` of each, ordered by split and hash.

    The result depends on which problems there are, not on their order. A repeated problem counts once; where its gold
    answers differ it is `conflicting`, and the first of them in the alphabet stays. Of problems over a limit only the
    hashes are held. Raises DistillError if one problem is in two splits.
    """
    groups = {split: _Group(counts[split]) for split in SPLITS}
    seen: dict[str, tuple[Split, bytes]] = {}
    conflicts: dict[str, str] = {}
    repeated = 0
    for problem in problems:
        if not own:
            problem = replace(problem, split=split_of(problem.id, dev_share, test_share))
        graded_by = bytes.fromhex(digest([problem.gold, problem.tests])[:16])
        split, first_graded_by = seen.setdefault(problem.id, (problem.split, graded_by))
        if split != problem.split:
            text = problem.messages[-1].content[:80]
            raise DistillError(f"problems: one problem is in {split} and in {problem.split}: {text!r}")
        repeated += not groups[split].add(problem)
        if first_graded_by != graded_by:
            conflicts[problem.id] = problem.messages[-1].content
    chosen = [problem for split in SPLITS for problem in groups[split].ordered()]
    examples = {"conflicting golds": [conflicts[key] for key in sorted(conflicts)[:SHOWN]]} if conflicts else {}
    return Parted(chosen, repeated, len(conflicts), len(seen) - len(chosen), examples)


class _Group:
    """The problems of one split that come first by hash."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._seen: set[str] = set()
        self._kept: dict[str, Problem] = {}
        self._last: list[tuple[int, str]] = []

    def add(self, problem: Problem) -> bool:
        """Take a problem in; False where it was there before (of the two, the first by content stays)."""
        if problem.id in self._kept:
            self._kept[problem.id] = min(self._kept[problem.id], problem, key=_content)
        if problem.id in self._seen:
            return False
        self._seen.add(problem.id)
        self._kept[problem.id] = problem
        heapq.heappush(self._last, (-_place(problem.id), problem.id))
        if self.limit is not None and len(self._kept) > self.limit:
            del self._kept[heapq.heappop(self._last)[1]]
        return True

    def ordered(self) -> list[Problem]:
        """What was kept, in the order of the hash."""
        return [self._kept[key] for key in sorted(self._kept, key=_place)]


def _place(key: str) -> int:
    return int(digest(["order", key]), 16)


def _content(problem: Problem) -> tuple[str, str, str]:
    rest = json.dumps(tables.to_dict(problem), sort_keys=True, default=str)
    return problem.gold or "", problem.tests or "", rest


def split_of(problem_id: str, dev_share: float, test_share: float) -> Split:
    """The split of a problem: test first, then dev, so that changing one share moves as few problems as it can."""
    point = int(digest(["split", problem_id])[:12], 16) / 16**12
    if point < test_share:
        return "test"
    return "dev" if point >= 1 - dev_share else "train"


def fault(problem: Problem, verifiers: Collection[str]) -> str | None:
    """Why no answer to a problem can be graded, or None, by the rules of the verifier that it names; `verifiers` are
    those that there are.

    Without a name, hidden tests are for `code`, and a gold is looked at as `math` would. Verifiers without rules here
    need a gold or tests, whatever they are.
    """
    if problem.verifier is not None and "." not in problem.verifier and problem.verifier not in verifiers:
        return f"no verifier `{problem.verifier}`"
    verifier = problem.verifier or ("code" if problem.tests else "math")
    if verifier == "math":
        return gold_fault(problem.gold)
    if verifier == "code":
        return tests_fault(problem.tests)
    if verifier == "reasoning_gym":
        return _gym_fault(problem.tests)
    if not problem.gold and not problem.tests:
        return "no gold answer"
    if verifier == "choice" and not (len(gold := (problem.gold or "").strip()) == 1 and "A" <= gold.upper() <= "Z"):
        return "gold is no option letter"
    return None


def _gym_fault(tests: str | None) -> str | None:
    try:
        parse(tests or "")
    except ValueError as error:
        return f"tests cannot be used: {error}"
    return None


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """A source file that is not there is refused before anything runs: (key, what is wrong), or None."""
    config = cast(Config, sections["problems"]) if "problems" in sections else None
    for path in _paths(config.source.config) if config is not None else []:
        if "*" not in path and not Path(path).is_file():
            return ("problems", "source"), f"`problems.source`: {path}: no such file"
    return None


def _paths(source: Any) -> list[str]:
    """The files that a source's settings name, those of a mixture's parts too; a Hub id is none."""
    if parts := getattr(source, "parts", None):
        return [path for part in parts.values() for path in _paths(part.source.config)]
    path = getattr(source, "path", None)
    return [] if path is None or hasattr(source, "from_split") else [path]


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """Contents of the files that the source reads."""
    source = cast(Config, sections["problems"]).source
    found = getattr(source.module(), "externals", None)
    return {} if found is None else dict(found(source.config))


def run(stage: StageRun) -> Report:
    """Read the source, part its problems, write problems.parquet."""
    config = cast(Config, stage.sections["problems"])
    module = config.source.module()
    parted = part(
        module.build(config.source.config, config.counts),
        config.counts,
        dev_share=config.dev_share,
        test_share=config.test_share,
        own=module.own_split(config.source.config),
    )
    if not parted.problems:
        raise DistillError(f"problems: source `{config.source.name}` gave none")
    verifiers = plugins.names("distill.verifiers")
    faults = {p.id: found for p in parted.problems if (found := fault(p, verifiers)) is not None}
    _show(stage, parted, faults)
    _refuse_if_ungradable(parted.problems, faults, config.max_ungradable)
    tables.write(stage.out / "problems.parquet", parted.problems, Problem)
    return _report(parted, faults)


def _show(stage: StageRun, parted: Parted, faults: Mapping[str, str]) -> None:
    """The first few examples of every oddity, so that a person can look them up."""
    for name, questions in parted.examples.items():
        for question in questions:
            stage.say(f"{name}: {_short(question)}")
    shown: Counter[str] = Counter()
    for problem in parted.problems:
        found = faults.get(problem.id)
        if found is not None and shown[found] < SHOWN:
            shown[found] += 1
            stage.say(f"{found}: {_short(problem.messages[-1].content)}, gold {_short(problem.gold)}")


def _refuse_if_ungradable(problems: list[Problem], faults: Mapping[str, str], most: float) -> None:
    """Stop where too many golds are bad: a wrong column, as a rule, and every answer would be paid for in vain."""
    given = [problem for problem in problems if problem.gold or problem.tests]
    bad = Counter(faults[problem.id] for problem in given if problem.id in faults)
    if given and bad.total() > most * len(given):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in bad.most_common(3))
        raise DistillError(
            f"problems: {bad.total():,} of {len(given):,} golds or tests cannot be graded against ({reasons}); check "
            "which column holds them, or raise `problems.max_ungradable`"
        )


def _report(parted: Parted, faults: Mapping[str, str]) -> Report:
    """The table has a row for each domain and source."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in parted.problems:
        groups.setdefault((problem.domain, problem.source, problem.licence), []).append(problem)
    some_unthinking = any(problem.thinking is False for problem in parted.problems)
    rows: list[dict[str, Any]] = []
    for (domain, source, licence), group in sorted(groups.items()):
        splits = Counter(problem.split for problem in group)
        row: dict[str, Any] = {"domain": domain or "-", "source": source or "-", "licence": licence or "-"}
        row |= {split: splits[split] for split in SPLITS}
        row["ungradable gold"] = sum(problem.id in faults for problem in group)
        if some_unthinking:
            row["without thinking"] = sum(problem.thinking is False for problem in group)
        rows.append(row)
    sizes = Counter(problem.split for problem in parted.problems)
    remarks = {
        "repeated": parted.repeated,
        "conflicting golds": parted.conflicting,
        "over the limits": parted.over_limit,
    }
    ungradable = Counter(faults.values())
    shown = [f"{count:,} {name}" for name, count in {**remarks, **ungradable}.items() if count]
    summary = ", ".join(f"{sizes[split]:,} {split}" for split in SPLITS)
    return Report(
        summary=summary + (f"; {', '.join(shown)}" if shown else ""),
        rows=rows,
        data={"splits": {split: sizes[split] for split in SPLITS}, **remarks, "ungradable": dict(ungradable)},
    )


def _short(text: str | None) -> str:
    folded = " ".join((text or "").split())
    return repr(folded if len(folded) <= 70 else f"{folded[:70]}...") if text is not None else "none"
