"""Public trace sets as they are published: which column is what, and what stands around the reasoning.

A layout is data. What a set of another layout calls its columns is said in the settings, which go before the layout.
Every response keeps where it is from: data set, licence, revision, file or split, row, and what the set itself says of
it (`claims`), which is kept and never believed.

Column names and licences are those of the data set cards on the Hugging Face Hub: open-thoughts/OpenThoughts-114k,
OpenThoughts2-1M and OpenThoughts3-1.2M, open-r1/OpenR1-Math-220k, simplescaling/s1K and s1K-1.1,
bespokelabs/Bespoke-Stratos-17k.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from distill import tabular
from distill.core import jsonl
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.records import FinishReason, Message, Problem, Role, problem_id
from distill.text.answers import extract
from distill.text.think import THINK, Dialect, Split, split_think

LayoutName = Literal["responses", "openthoughts", "openr1", "s1k", "s1k-1.1", "bespoke-stratos", "chat"]
DialectName = Literal["think", "begin_of_thought", "harmony", "none"]

DIALECTS: dict[DialectName, Dialect] = {
    "think": THINK,
    "begin_of_thought": Dialect(
        "<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"
    ),
    "harmony": Dialect(channels=True),
    "none": Dialect("", ""),
}
"""What may stand around the reasoning, by name."""

EITHER: tuple[DialectName, ...] = ("begin_of_thought", "think")

ROLES: dict[str, Role] = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip
"""Who speaks, by the names that sets have for them."""

APART = ("reasoning_content", "reasoning", "thinking")
"""Fields of a turn with the reasoning, where it is not in the text."""

SHORT = 100
"""Characters up to which a worked solution of one line is the answer itself."""

SHOWN = 3
"""Rows that cannot be read and are named."""


@dataclass(frozen=True)
class Layout:
    """Which column is what. The question is in `question`, or all turns are in `messages`; the response is its last.

    Otherwise responses are whole texts (or lists of them) in `responses`, or come apart in `reasoning` and `answer`.
    A gold in `no_gold` is none; without `gold`, the answer that a worked `solution` marks is gold. `about` and
    `claims` are kept with the response. A column of the layout that a row lacks is passed over if the row can be read
    without it.
    """

    question: str | None = None
    messages: str | None = None
    responses: tuple[str, ...] = ()
    reasoning: str | None = None
    answer: str | None = None
    system: str | None = None
    gold: str | None = None
    solution: str | None = None
    no_gold: tuple[str, ...] = ()
    finish_reason: str | None = None
    model_column: str | None = None
    domain: str | None = None
    level: str | None = None
    about: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    dialects: tuple[DialectName, ...] = ("think",)
    thinker: bool = True
    """A response without an end of thinking is unfinished, not "all answer"."""
    keep_system: bool = False
    """The system prompt is part of the problem. Those of the known sets say how to write their delimiters, which are
    taken away here, and would teach a student to need them."""
    trims: bool = True
    """Line breaks around reasoning and answer belong to the delimiters."""
    dataset: str = ""
    licence: str = ""
    model: str = ""


LAYOUTS: dict[LayoutName, Layout] = {
    "responses": Layout(question="question", responses=("response",), thinker=False, trims=False),
    "openthoughts": Layout(
        messages="conversations", system="system", domain="domain", level="difficulty", about=("source",),
        dialects=EITHER, dataset="OpenThoughts", licence="apache-2.0", model="DeepSeek-R1",
    ),
    "openr1": Layout(
        question="problem", responses=("generations",), gold="answer", no_gold=("proof", "notfound"),
        finish_reason="finish_reasons", domain="problem_type", about=("source", "uuid", "question_type"),
        claims=("correctness_math_verify", "correctness_llama", "is_reasoning_complete"),
        dataset="OpenR1-Math-220k", licence="apache-2.0", model="DeepSeek-R1",
    ),
    "s1k": Layout(
        question="question", reasoning="thinking_trajectories", answer="attempt", solution="solution",
        domain="cot_type", about=("source_type",),
        dataset="s1K", licence="apache-2.0", model="gemini-2.0-flash-thinking-exp-1219",
    ),
    "s1k-1.1": Layout(
        question="question", reasoning="deepseek_thinking_trajectory", answer="deepseek_attempt", solution="solution",
        domain="cot_type", about=("source_type",), claims=("deepseek_grade",),
        dataset="s1K-1.1", licence="mit", model="DeepSeek-R1",
    ),
    "bespoke-stratos": Layout(
        messages="conversations", system="system", dialects=EITHER,
        dataset="Bespoke-Stratos-17k", licence="apache-2.0", model="DeepSeek-R1",
    ),
    "chat": Layout(messages="messages", dialects=("think", "begin_of_thought"), thinker=False, keep_system=True),
}  # fmt: skip
"""The known layouts. `openthoughts` is that of all three sets (the third was answered by QwQ-32B: say `model`)."""


class TraceSet(Settings):
    """Settings of whatever reads a trace set. Names of columns go before those of the layout; dots reach into objects.

    A class that has them also has `path` and `layout`.
    """

    name: str | None = None
    """On the Hub: the data set's configuration, where it has several."""
    from_split: str = "train"
    """On the Hub: the split that is read."""
    revision: str | None = None
    """On the Hub: commit, tag or branch. None: what main is now, which is then said."""
    rows: PositiveInt | None = None
    """At most so many rows, from the first on."""
    question: str | None = None
    """Column with the question."""
    messages: str | None = None
    """Column with all turns; the last is the response. Turns have `role` and `content`, or `from` and `value`."""
    responses: list[str] | None = None
    """Columns with whole responses; each holds a text or a list of texts."""
    reasoning: str | None = None
    """Column with the reasoning, where it comes apart from the answer."""
    answer: str | None = None
    """Column with the answer, where the reasoning comes apart."""
    system: str | None = None
    """Column with the system prompt."""
    keep_system: bool | None = None
    """Whether a system prompt stays with the problem. None: with `chat` it does."""
    gold: str | None = None
    """Column with the gold answer."""
    solution: str | None = None
    """Column with a worked solution, without a column of gold answers: the answer it marks (box, `####`, "the answer
    is") is gold, and one of a short line is the answer."""
    finish_reason: str | None = None
    """Column that says how the response ended (`stop` or `length`); without it all count as finished."""
    domain: str | None = None
    """Column with the domain."""
    level: str | None = None
    """Column with the difficulty."""
    dialect: DialectName | None = None
    """What stands around the reasoning. None: what the layout knows."""
    thinker: bool | None = None
    """The model that answered thinks: a response without an end of thinking is unfinished, not "all answer"."""
    model: str = ""
    """Who answered, as records name it. Empty: as the layout says, else the file's name."""
    model_column: str | None = None
    """Column that says who answered, where several did."""
    dataset: str = ""
    """Where the traces are from, as records name it. Empty: the Hub's id, or as the layout says."""
    licence: str = ""
    """Their licence, as records name it. Empty: as the layout's card says."""
    max_unreadable: float = Field(default=0.01, ge=0, le=1)
    """More than this share of rows that cannot be read stops the stage."""

    def columns(self, layout: LayoutName) -> Layout:
        """The layout, with what these settings say instead."""
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "question", "messages", "reasoning", "answer", "system", "keep_system", "gold", "solution",
                "finish_reason", "domain", "level", "model_column", "thinker",
            )
            if getattr(self, name) is not None
        } | {name: getattr(self, name) for name in ("model", "dataset", "licence") if getattr(self, name)}  # fmt: skip
        if self.question is not None:
            given.setdefault("messages", None)
        if self.responses is not None:
            given |= {"responses": tuple(self.responses), "reasoning": self.reasoning, "answer": self.answer}
        elif self.answer is not None:
            given["responses"] = ()
        if self.dialect is not None:
            given["dialects"] = (self.dialect,)
        return replace(LAYOUTS[layout], **given)


@dataclass(frozen=True)
class Response:
    """One recorded response, taken apart; `text` is what was recorded."""

    split: Split
    text: str
    finish_reason: FinishReason
    origin: dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """One row: its problem (in no split yet, which `train` stands for), the system prompt in it, who answered, how."""

    problem: Problem
    system: str | None
    model: str
    responses: tuple[Response, ...]


def is_hub_id(path: str) -> bool:
    """Whether a path names a data set of the Hub rather than a file."""
    known = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".gz", ".zst")
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None and not Path(path).exists() and not path.endswith(known)


def externals(path: str) -> dict[str, str]:
    """Content of the files; a data set of the Hub counts by its id and revision."""
    return {} if is_hub_id(path) else tabular.externals(path)


class Reader:
    """The rows of a trace set, one after another; counts and names those that cannot be read."""

    def __init__(self, path: str, layout: LayoutName, settings: TraceSet, who: str) -> None:
        self.path, self.settings, self.who = path, settings, who
        self.columns = settings.columns(layout)
        self.rows = 0
        self.unread: Counter[str] = Counter()
        self.named: list[str] = []
        self._origin: dict[str, Any] = {"layout": layout}
        self._there: set[str] = set()
        self._first: dict[str, str] = {}

    def __iter__(self) -> Iterator[Recorded]:
        """Read every row. Raises DistillError at the end if too many could not be read, naming the first."""
        for where, row in self._rows():
            self.rows += 1
            found = self._read(row, where)
            if isinstance(found, Recorded):
                yield found
                continue
            told = str(found)
            reason = re.split(r"[;:(]", told.removeprefix(f"{where}: "))[0].strip()
            self.unread[reason] += 1
            self._first.setdefault(reason, told)
            if len(self.named) < SHOWN:
                self.named.append(told)
        if self.unread.total() > self.settings.max_unreadable * self.rows:
            first = "; ".join(list(self._first.values())[:SHOWN])
            raise DistillError(
                f"{self.who}: {self.unread.total():,} of {self.rows:,} rows cannot be read, more than "
                f"`max_unreadable` ({100 * self.settings.max_unreadable:g}%) allows: {first}"
                f"{self._another_layout()}"
            )

    def _read(self, row: tabular.Row | DistillError, where: str) -> Recorded | DistillError:
        if isinstance(row, DistillError):
            return row
        try:
            return self._recorded(row, where)
        except DistillError as error:
            return error

    def _rows(self) -> Iterator[tuple[str, tabular.Row | DistillError]]:
        dataset = self.settings.dataset or self.columns.dataset
        if is_hub_id(self.path):
            from distill.sources import hub

            revision = self.settings.revision or hub.current(self.path)
            self._origin |= {"dataset": self.settings.dataset or self.path, "revision": revision or ""}
            yield from hub.read(
                self.path, self.settings.name, self.settings.from_split, revision, most=self.settings.rows
            )
            return
        self._origin["dataset"] = dataset or Path(self.path).name
        if self.settings.revision is not None:
            self._origin["revision"] = self.settings.revision
        left = self.settings.rows
        for file in tabular.files(self.path):
            for found in _file_rows(file, self.columns):
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield found

    def _recorded(self, row: tabular.Row, where: str) -> Recorded:
        columns = self.columns
        self._there = self._there or set(row)
        if columns.messages is not None:
            *before, last = _turns(jsonl.field(row, columns.messages, where), where)
            if last.role != "assistant" or not before or before[-1].role != "user":
                raise DistillError(f"{where}: the last turns are no question and its answer")
            asked = [Message(turn.role, self._without_thinking(turn)) for turn in before]
            said = [self._taken_apart(last.content, last.reasoning)]
        else:
            asked = [Message("user", tabular.text(row, columns.question or "question", where))]
            said = list(self._said(row, where))
        system = self._optional(row, columns.system, where)
        if system:
            asked.insert(0, Message("system", system))
        if not columns.keep_system:
            asked = [message for message in asked if message.role != "system"]
        kept = next((message.content for message in asked if message.role == "system"), None)
        finish = self._listed(row, columns.finish_reason, where)
        file, _, number = where.rpartition(":")
        origin = {
            **self._origin,
            "licence": columns.licence,
            "file": Path(file).name,
            "row": int(number),
            **{name: row[name] for name in columns.about if row.get(name) is not None},
        }
        claims = {name: self._listed(row, name, where) for name in columns.claims if row.get(name) is not None}
        responses = tuple(
            Response(
                split, text, finish_reason(_at(finish, place, len(said))),
                origin | {"response": place, "claims": {n: _at(c, place, len(said)) for n, c in claims.items()}},
            )
            for place, (split, text) in enumerate(said)
        )  # fmt: skip
        return Recorded(self._problem(row, where, tuple(asked)), kept, self._model(row, where), responses)

    def _problem(self, row: tabular.Row, where: str, messages: tuple[Message, ...]) -> Problem:
        columns = self.columns
        gold = self._optional(row, columns.gold, where)
        if columns.gold is None:
            gold = _marked(self._optional(row, columns.solution, where) or "")
        return Problem(
            id=problem_id(messages), messages=messages, split="train",
            gold=None if gold is None or not gold.strip() or gold.strip() in columns.no_gold else gold,
            domain=self._optional(row, columns.domain, where) or "",
            level=self._optional(row, columns.level, where) or "",
            source=str(self._origin["dataset"]), licence=columns.licence,
        )  # fmt: skip

    def _model(self, row: tabular.Row, where: str) -> str:
        said = self._optional(row, self.columns.model_column, where)
        return said or self.columns.model or str(self._origin["dataset"])

    def _said(self, row: tabular.Row, where: str) -> Iterator[tuple[Split, str]]:
        columns = self.columns
        if columns.answer is not None:
            said = "\n\n".join(_texts(row, columns.answer, where))
            thought = self._thought(row, where)
            yield self._taken_apart(said, thought) if thought.strip() else (_plain(said), said)
            return
        for column in columns.responses:
            for text in _texts(row, column, where):
                yield self._taken_apart(text, None)

    def _thought(self, row: tabular.Row, where: str) -> str:
        name = self.columns.reasoning
        if name is None or jsonl.field(row, name, where) is None:
            return ""
        return "\n\n".join(_texts(row, name, where))

    def _taken_apart(self, text: str, apart: str | None) -> tuple[Split, str]:
        """A response split, and the whole of it. Delimiters inside the answer of a response that comes apart stay."""
        columns = self.columns
        dialect = _dialect(text, columns.dialects)
        split = split_think(text, thinker=columns.thinker, dialect=dialect, apart=apart)
        whole = text if apart is None else f"{dialect.open}{apart}{dialect.close}{text}"
        if columns.trims:
            trimmed = None if split.reasoning is None else split.reasoning.strip("\n")
            split = replace(split, reasoning=trimmed, answer=split.answer.strip("\n"))
        return split, whole

    def _without_thinking(self, turn: Turn) -> str:
        """An earlier turn, as chat templates show it: without its thinking."""
        if turn.role != "assistant":
            return turn.content
        split = split_think(turn.content, thinker=False, dialect=_dialect(turn.content, self.columns.dialects))
        return split.answer.strip("\n")

    def _optional(self, row: tabular.Row, name: str | None, where: str) -> str | None:
        return jsonl.text(row, name, where) if name is not None and self._has(row, name) else None

    def _listed(self, row: tabular.Row, name: str | None, where: str) -> Any:
        return jsonl.field(row, name, where) if name is not None and self._has(row, name) else None

    def _has(self, row: tabular.Row, name: str) -> bool:
        """Whether to read a column: always where the settings name it, else where the row has it."""
        ours = self.settings
        named = (ours.system, ours.gold, ours.solution, ours.finish_reason, ours.model_column, ours.domain, ours.level)
        return name in row or name in named

    def _another_layout(self) -> str:
        fits = [
            name for name, layout in LAYOUTS.items() if name != self._origin["layout"] and _needs(layout) <= self._there
        ]
        return f"; its columns are those of `layout: {fits[0]}`" if fits else ""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation as it was recorded."""

    role: Role
    content: str
    reasoning: str | None = field(default=None)


def _needs(layout: Layout) -> set[str]:
    """The columns without which a row of this layout cannot be read."""
    several = (layout.question, layout.messages, layout.reasoning, layout.answer, *layout.responses)
    return {name for name in several if name is not None}


def _file_rows(file: Path, layout: Layout) -> Iterator[tuple[str, tabular.Row | DistillError]]:
    """Rows of a file: of Parquet the columns that are read, of JSON Lines also the faults of those that are none."""
    kind = Path(file.stem).suffix if file.suffix in (".gz", ".zst") else file.suffix
    if kind == ".parquet":
        yield from tabular.parquet_rows(file, _wanted(file, layout))
        return
    if kind in (".csv", ".tsv"):
        yield from tabular.rows(str(file))
        return
    with jsonl.open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}:{number}"
            if line.strip():
                try:
                    yield where, jsonl.parse(line, where)
                except DistillError as error:
                    yield where, error


def _wanted(file: Path, layout: Layout) -> list[str] | None:
    """The columns of a Parquet file that are read; None, all of them, where one that is needed is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError):
        return None  # reading it says what is wrong
    if not {name.partition(".")[0] for name in _needs(layout)} <= there:
        return None
    more = (
        layout.system,
        layout.gold,
        layout.solution,
        layout.finish_reason,
        layout.model_column,
        layout.domain,
        layout.level,
    )
    named = {*_needs(layout), *layout.about, *layout.claims, *(name for name in more if name is not None)}
    return sorted(name for name in named if name.partition(".")[0] in there)


def _marked(solution: str) -> str | None:
    """The answer that a worked solution marks; one of a short line is the answer; None where it has none."""
    text = solution.strip()
    found = extract(text, unmarked=False)
    if found is not None and found.text.strip():
        return found.text.strip()
    return text if text and len(text) <= SHORT and "\n" not in text else None


def _turns(value: Any, where: str) -> list[Turn]:
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise DistillError(f"{where}: the turns are no list of objects")
    turns = []
    for turn in value:
        who = str(turn.get("role", turn.get("from", "")))
        if who not in ROLES:
            raise DistillError(f"{where}: a turn of role `{who}`, which is none of {', '.join(ROLES)}")
        apart = next((turn[name] for name in APART if isinstance(turn.get(name), str) and turn[name]), None)
        turns.append(Turn(ROLES[who], _content(turn.get("content", turn.get("value")), where), apart))
    return turns


def _content(value: Any, where: str) -> str:
    """A turn's text, also where it comes as a list of parts."""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise DistillError(f"{where}: a turn's content is no text")
    return value


def _texts(row: tabular.Row, column: str, where: str) -> Iterator[str]:
    value = jsonl.field(row, column, where)
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str):
            raise DistillError(f"{where}: `{column}` is neither a text nor a list of texts")
        yield item


def _dialect(text: str, names: Sequence[DialectName]) -> Dialect:
    """Of several dialects, the one a response is in: that whose tag it begins with, else the first whose tag it has."""
    dialects = [DIALECTS[name] for name in names]
    begins = [dialect for dialect in dialects if dialect.open and text.lstrip().startswith(dialect.open)]
    has = [dialect for dialect in dialects if dialect.close and dialect.close in text]
    return (begins or has or dialects)[0]


def _plain(answer: str) -> Split:
    """An answer without reasoning."""
    return Split(None, answer, closed=True, parts=(("answer", answer),))


def _at(value: Any, place: int, count: int) -> Any:
    """What a column says of one of `count` responses: its place in a list as long, or what is said of all."""
    if isinstance(value, list):
        return value[place] if len(value) == count else None
    return value


def finish_reason(value: Any) -> FinishReason:
    """How a response ended, as files have it: at a limit, or by itself."""
    return "length" if value in ("length", "max_tokens", "truncated") else "stop"
