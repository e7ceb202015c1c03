"""Recorded answers in place of a model: for tests, and for running an experiment again without its teacher.

    teacher: {model: recorded/samples.parquet, engine: replay}

`model` is the recording: a `samples.parquet` that `sample` wrote, the `ledger.sqlite` of a workspace, or a JSON Lines
file with questions (or `messages`) and responses. Recorded samples are answers to the same messages under the same
sampling settings and index; of a JSON Lines file, answer i is the question's i-th response. What is not recorded is a
failed answer, never an invented one. Its identity is the recording's content.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from distill.core import jsonl, tables
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.files import sha256_file
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import FinishReason, Message, ModelIdentity, Sample, Sampling, sample_key
from distill.text.think import split_think

if TYPE_CHECKING:
    from distill.core.ledger import Ledger
    from distill.core.shards import Shard

UNBOUNDED = 1 << 20
"""Context of a recording: it has none."""

CUT = ("length", "max_tokens", "truncated")
"""How files say that a response was cut."""


SCORES = False
"""A recording knows nothing of other tokens than its own."""


class Config(Settings):
    """Settings of the `replay` engine."""

    recorded_model: str | None = None
    """Whose answers, by name or identity, where the recording has those of several models."""
    question: str = "question"
    """JSON Lines: column with the question; rows with `messages` (role and content) need none."""
    responses: list[str] = Field(default=["responses"], min_length=1)
    """JSON Lines: columns with whole responses; each holds a text or a list of texts."""
    finish_reason: str | None = None
    """JSON Lines: column that says how the responses ended (`stop` or `length`); without it all count as finished."""


@dataclass(frozen=True)
class About:
    """Whose answers a recording holds."""

    model_id: str
    name: str
    samples: int
    """One more than the largest index."""
    tokenizer: str | None = None
    template: str | None = None
    vocab_size: int | None = None


class Recording(Protocol):
    """Answers that were given once."""

    about: About

    def find(self, messages: tuple[Message, ...], sampling: Sampling, index: int) -> Sample | str:
        """The recorded answer, or why there is none."""

    def logprobs(self, sample: Sample) -> TokenLogprobs | None:
        """The log-probabilities recorded with it."""

    def close(self) -> None:
        """Close its files."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """Hash of the recording's content and of how it is read. Raises DistillError if there is none."""
    del revision
    with closing(_open(config, model)) as recording:
        about = recording.about
    path = Path(model).expanduser()
    content = _ledger_digest(path, about.model_id) if _is_ledger(path) else sha256_file(path)
    return ModelIdentity(
        id=digest(["replay", content, config.keyed()])[:32],
        name=about.name,
        tokenizer=about.tokenizer,
        template=about.template,
        vocab_size=about.vocab_size,
    )


def build(config: Config, model: str, revision: str | None = None) -> ReplayEngine:
    """Open the recording."""
    return ReplayEngine(config, model, revision)


class ReplayEngine:
    """Answers what was answered before."""

    name = "replay"

    def __init__(self, config: Config, model: str, revision: str | None = None) -> None:
        self.identity = identify(config, model, revision)
        self.recording = _open(config, model)

    def close(self) -> None:
        """Close the recording."""
        self.recording.close()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the recorded answer to each request, in their order; see `Engine.generate`."""
        for request in requests:
            found = self._find(request)
            yield _failed(request, found) if isinstance(found, str) else self._completion(request, found)

    def stream(self, messages: Sequence[Message], sampling: Sampling, key: str = "") -> Iterator[str]:
        """Yield the first recorded answer whole. Raises DistillError if there is none."""
        del key
        found = self.recording.find(tuple(messages), sampling, 0)
        if isinstance(found, str):
            raise DistillError(f"engine `replay`: {found}")
        yield found.text

    def room(self, messages: Sequence[Message], thinking: bool | None = None) -> int:
        """No limit: answers are as long as they were."""
        del messages, thinking
        return UNBOUNDED

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        """Refused: a recording knows nothing of other tokens."""
        del requests, keep
        raise DistillError("engine `replay` cannot score given tokens; score with the model itself")

    def _find(self, request: Request) -> Sample | str:
        if request.prefix_ids:
            return "a recorded answer cannot be continued from a prefix"
        index = self._index(request)
        if index is None:
            return f"not among the {self.recording.about.samples} answers that any problem has in the recording"
        return self.recording.find(request.messages, request.sampling, index)

    def _index(self, request: Request) -> int | None:
        """The sample index that a request's key was made of."""
        for index in range(self.recording.about.samples):
            if sample_key(request.messages, self.identity.id, request.sampling, index) == request.key:
                return index
        return None

    def _completion(self, request: Request, sample: Sample) -> Completion:
        opened = _opened(sample, request.sampling)
        own_ids = sample.tokenizer == self.identity.tokenizer
        return Completion(
            key=request.key,
            text=sample.answer if opened is None else sample.text,
            reasoning=sample.reasoning if opened is None else None,
            reasoning_kind=sample.reasoning_kind if opened is None else None,
            finish_reason=sample.finish_reason,
            prompt_ids=sample.prompt_ids if own_ids else None,
            prefill_ids=sample.prefill_ids if own_ids else None,
            completion_ids=sample.completion_ids if own_ids else None,
            prompt_tokens=sample.prompt_tokens,
            completion_tokens=sample.completion_tokens,
            opened=bool(opened),
            reasoning_tokens=sample.reasoning_tokens,
            logprobs=self.recording.logprobs(sample) if request.sampling.top_logprobs else None,
        )


def _failed(request: Request, why: str) -> Completion:
    return Completion(
        key=request.key, text="", finish_reason="error", prompt_ids=None, prefill_ids=None, completion_ids=None,
        prompt_tokens=0, completion_tokens=0, opened=False, error=why, failure="not recorded",
    )  # fmt: skip


def _opened(sample: Sample, sampling: Sampling) -> bool | None:
    """Whether the prompt had opened the thinking, by which of the two gives the parts that were recorded; None where
    neither does: the reasoning came in a field, or between other marks.
    """
    recorded = (sample.reasoning, sample.answer, sample.closed)
    for opened in (False, True):
        split = split_think(sample.text, opened=opened, thinker=opened or sampling.thinking is True)
        if (split.reasoning, split.answer, split.closed) == recorded:
            return opened
    return None


def _open(config: Config, model: str) -> Recording:
    path = Path(model).expanduser()
    if not path.is_file():
        raise DistillError(f"engine `replay`: {model}: no such recording")
    if path.suffix == ".parquet":
        return _Samples(path, config)
    if _is_ledger(path):
        return _Stored(path, config)
    return _Lines(path, config)


def _is_ledger(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _chosen(models: dict[str, str], config: Config, path: Path) -> str:
    """The id of the model whose answers are replayed."""
    wanted = config.recorded_model
    found = [key for key, name in models.items() if wanted is None or wanted in (key, name)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{name} ({key[:8]})" for key, name in sorted(models.items(), key=lambda item: item[1])) or "none"
    what = f"no answers of `{wanted}`" if wanted is not None and not found else "answers of several models"
    raise DistillError(f"engine `replay`: {path}: {what}; set `recorded_model` to one of: {there}")


def _missing(sampling: Sampling) -> str:
    return (
        f"the recording has no answer to these messages with this index that serves {sampling.keyed()}, "
        f"max_tokens {sampling.max_tokens}, top_logprobs {sampling.top_logprobs}"
    )


class _Samples:
    """A samples.parquet, with the logit shards beside it."""

    def __init__(self, path: Path, config: Config) -> None:
        samples = tables.read(path, Sample)
        model = _chosen({s.model_id: s.model_name for s in samples if s.engine != "replay"}, config, path)
        self._by_key = {s.key: s for s in samples if s.model_id == model}
        self._folder = path.parent
        self._shards: dict[str, Shard] = {}
        own = list(self._by_key.values())
        tokenizers = {s.tokenizer for s in own}
        recorded = next((s for s in own if s.logits is not None), None)
        info = None if recorded is None else self._shard(recorded).info
        self.about = About(
            model,
            own[0].model_name,
            1 + max(s.index for s in own),
            tokenizer=tokenizers.pop() if len(tokenizers) == 1 else None,
            template=None if info is None else info.template,
            vocab_size=None if info is None else info.vocab_size,
        )

    def find(self, messages: tuple[Message, ...], sampling: Sampling, index: int) -> Sample | str:
        sample = self._by_key.get(sample_key(messages, self.about.model_id, sampling, index))
        if sample is None or not sample.serves(sampling.max_tokens, sampling.top_logprobs):
            return _missing(sampling)
        return sample

    def logprobs(self, sample: Sample) -> TokenLogprobs | None:
        return None if sample.logits is None else self._shard(sample).rows(sample.key, sample.completion_ids or ())

    def _shard(self, sample: Sample) -> Shard:
        from distill.core.shards import Shard

        name = sample.logits or ""
        if name not in self._shards:
            if not (self._folder / name).is_file():
                raise DistillError(f"engine `replay`: {self._folder / name}: missing, but the recording names it")
            self._shards[name] = Shard(self._folder / name)
        return self._shards[name]

    def close(self) -> None:
        self._shards.clear()


class _Stored:
    """The ledger of a workspace."""

    def __init__(self, path: Path, config: Config) -> None:
        from distill.core.ledger import Ledger

        with closing(_reading(path)) as connection:
            rows = connection.execute(
                "SELECT model_id, MIN(json_extract(about, '$.model_name')), MAX(sample_index),"
                " MIN(json_extract(about, '$.tokenizer')), MAX(json_extract(about, '$.tokenizer'))"
                " FROM sample WHERE json_extract(about, '$.engine') <> 'replay' GROUP BY model_id"
            ).fetchall()
        model = _chosen({row[0]: row[1] for row in rows}, config, path)
        _, name, largest, tokenizer, other = next(row for row in rows if row[0] == model)
        self._ledger: Ledger = Ledger(path)
        with closing(_reading(path)) as connection:
            recorded = connection.execute(
                "SELECT key FROM sample WHERE model_id = ? AND shard IS NOT NULL LIMIT 1", (model,)
            ).fetchone()
        info = None
        if recorded is not None:
            stored = self._ledger.samples([recorded[0]])[recorded[0]]
            info = self._ledger.shard_info(next(s for s in stored if s.logits is not None))
        self.about = About(
            model,
            name,
            1 + largest,
            tokenizer=tokenizer if tokenizer == other else None,
            template=None if info is None else info.template,
            vocab_size=None if info is None else info.vocab_size,
        )

    def find(self, messages: tuple[Message, ...], sampling: Sampling, index: int) -> Sample | str:
        key = sample_key(messages, self.about.model_id, sampling, index)
        return self._ledger.serving([key], sampling.max_tokens, sampling.top_logprobs).get(key) or _missing(sampling)

    def logprobs(self, sample: Sample) -> TokenLogprobs | None:
        return None if sample.logits is None else self._ledger.logprobs(sample)

    def close(self) -> None:
        self._ledger.close()


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _ledger_digest(path: Path, model_id: str) -> str:
    """Hash of all that a ledger holds of one model; other models' answers and verdicts do not count."""
    content = hashlib.sha256()
    with closing(_reading(path)) as connection:
        for row in connection.execute(
            "SELECT s.key, s.max_tokens, s.top_logprobs, s.about, b.content FROM sample s"
            " JOIN body b USING (key, max_tokens, top_logprobs) WHERE s.model_id = ? ORDER BY 1, 2, 3",
            (model_id,),
        ):
            for value in row:
                content.update(value if isinstance(value, bytes) else str(value).encode())
                content.update(b"\0")
    return content.hexdigest()


@dataclass
class _Lines:
    """A JSON Lines file of questions and responses."""

    path: Path
    config: Config
    about: About = field(init=False)
    _responses: dict[str, list[tuple[str, FinishReason]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for number, row in jsonl.read(self.path):
            where = f"{self.path}:{number}"
            said = jsonl.text(row, self.config.finish_reason, where) if self.config.finish_reason else "stop"
            finish: FinishReason = "length" if said in CUT else "stop"
            given = self._responses.setdefault(self._asked(row, where), [])
            given += [(text, finish) for column in self.config.responses for text in _texts(row, column, where)]
        if not self._responses:
            raise DistillError(f"engine `replay`: {self.path}: no answer in it")
        most = max(len(given) for given in self._responses.values())
        self.about = About("", self.path.stem.partition(".")[0], most)

    def find(self, messages: tuple[Message, ...], sampling: Sampling, index: int) -> Sample | str:
        turns = [message for message in messages if message.role != "system"]
        given = self._responses.get(_turns(messages))
        if given is None and len(turns) == 1:
            given = self._responses.get(_folded(turns[0].content))
        if given is None:
            return "the recording has no answers to this question"
        if index >= len(given):
            return f"the recording has {len(given)} answers to this question; index {index} is one more"
        if sampling.top_logprobs:
            return "the recording has no log-probabilities"
        text, finish = given[index]
        return Sample(
            key="", problem_id="", index=index, model_id="", model_name=self.about.name, engine="replay", max_tokens=0,
            finish_reason=finish, reasoning=None, answer=text, closed=True, reasoning_kind="none", text=text,
        )  # fmt: skip

    def logprobs(self, sample: Sample) -> TokenLogprobs | None:
        del sample
        return None

    def close(self) -> None:
        """Nothing is open."""

    def _asked(self, row: dict[str, Any], where: str) -> str:
        turns = row.get("messages")
        if turns is None:
            return _folded(jsonl.text(row, self.config.question, where) or "")
        try:
            return _turns(tuple(Message(turn["role"], turn["content"]) for turn in turns))
        except (TypeError, KeyError) as error:
            raise DistillError(f"{where}: `messages` is no list of objects with `role` and `content`") from error


def _texts(row: dict[str, Any], column: str, where: str) -> Iterator[str]:
    value = jsonl.field(row, column, where)
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str):
            raise DistillError(f"{where}: `{column}` is neither a text nor a list of texts")
        yield item


def _turns(messages: tuple[Message, ...]) -> str:
    return digest([[message.role, message.content] for message in messages])


def _folded(question: str) -> str:
    """A question, white space aside; never mistaken for the digest of turns."""
    return "question " + " ".join(question.split())
