"""The records that stages exchange. Field names and meanings here are the project's contract.

Plain frozen dataclasses of plain types, so that each writes to Parquet (`distill.core.tables`), JSON and the ledger
as it is. A record never holds a path of the machine it was made on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from distill.core.config import digest
from distill.core.errors import DistillError

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "dev", "test"]
VerdictValue = Literal["correct", "wrong", "unparseable", "ungradable", "error"]
FinishReason = Literal["stop", "length", "error"]
ReasoningKind = Literal["full", "summary", "hidden", "none"]
LabelSource = Literal["gold", "majority", "rationalised", "none"]

GRADED: tuple[VerdictValue, ...] = ("correct", "wrong", "unparseable")
"""Verdicts that count in a rate's denominator; `ungradable` (bad gold) and `error` (infrastructure) do not."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Problem:
    """A verifiable problem.

    `id` is the hash of the messages only: a corrected gold answer re-grades and never re-buys. `verifier` names the
    verifier of this problem where it is not the experiment's; `tests` holds hidden tests for code problems.
    """

    id: str
    messages: tuple[Message, ...]
    gold: str | None
    split: Split
    domain: str = ""
    source: str = ""
    licence: str = ""
    level: str = ""
    verifier: str | None = None
    verifier_settings: dict[str, Any] = field(default_factory=dict)
    tests: str | None = None
    reference_reasoning: str | None = None
    """A worked solution that came with the problem (GSM8K's gold solutions), imported as a trace."""
    thinking: bool | None = None
    """Whether it is to be answered with thinking, where the problem itself says so (a mixture's part without
    reasoning); None leaves it to the settings of `sample:`."""


def problem_id(messages: tuple[Message, ...]) -> str:
    """Hash of the messages: 32 hex digits."""
    return digest([[message.role, message.content] for message in messages])[:32]


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn. Every field but `max_tokens` and those of log-probabilities is part of the sample's key.

    `temperature` 0 is greedy; `temperature` or `top_p` None is not sent to a server that takes none (local engines
    refuse it). `thinking` None leaves the template's default; False asks for the no-think form. `arguments` is what
    else a served model is asked with (`{"reasoning_effort": "high"}`), under the server's own names.
    `max_tokens` limits the completion (prefill not counted). `top_logprobs` is how many log-probabilities to record
    per token (0: none), `logprob_temperatures` at which others than 1 a loss will soften them; neither changes what is
    drawn.
    """

    temperature: float | None = 0.6
    top_p: float | None = 0.95
    top_k: int = 0
    seed: int = 0
    thinking: bool | None = None
    max_tokens: int = 512
    top_logprobs: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    logprob_temperatures: tuple[float, ...] = ()

    def numbers(self) -> tuple[float, float]:
        """Temperature and top_p, for engines that draw themselves. Raises DistillError where one is not set."""
        if self.temperature is None or self.top_p is None:
            raise DistillError(
                "a local engine needs `sample_temperature` and `top_p`: its family sets none, so give both"
            )
        return self.temperature, self.top_p

    def keyed(self) -> dict[str, Any]:
        """The fields that shape what is drawn."""
        more = {"arguments": self.arguments} if self.arguments else {}  # absent where empty: keys of old answers hold
        if self.temperature == 0:
            return {"temperature": 0.0, "thinking": self.thinking} | more  # greedy: seed and nucleus change nothing
        return {
            "temperature": None if self.temperature is None else float(self.temperature),
            "top_p": None if self.top_p is None else float(self.top_p),
            "top_k": self.top_k,
            "seed": self.seed,
            "thinking": self.thinking,
        } | more


@dataclass(frozen=True)
class ModelIdentity:
    """Who answered. `id` is a content hash for a local model, a declared id for a served one; never a path or URL.

    `tokenizer` and `template` are fingerprints (`distill.core.fingerprint`), None where the server hides them.
    """

    id: str
    name: str
    tokenizer: str | None = None
    template: str | None = None
    vocab_size: int | None = None


def sample_key(
    messages: tuple[Message, ...], model_id: str, sampling: Sampling, index: int, prefix_ids: tuple[int, ...] = ()
) -> str:
    """Key of one paid answer: messages (system prompt included), model, sampling settings, sample index. 64 hex.

    Of an answer that was continued, the ids that it was continued from count too.
    """
    turns = [[message.role, message.content] for message in messages]
    more = {"prefix": list(prefix_ids)} if prefix_ids else {}  # absent where empty: keys of old answers hold
    return digest({"messages": turns, "model": model_id, "sampling": sampling.keyed(), "index": index} | more)


@dataclass(frozen=True)
class Sample:
    """One paid answer. Ids were made once, by the engine, and are never made again.

    Model input was `prompt_ids + prefill_ids`; `prefill_ids` is what the template opened for the model (`<think>` and
    a newline), `completion_ids` exactly what was drawn, with the stop token where one was drawn. `closed` says whether
    reasoning ended (True where there was none to end). `logits` names the logit shard that holds its rows.
    """

    key: str
    problem_id: str
    index: int
    model_id: str
    model_name: str
    engine: str
    max_tokens: int
    finish_reason: FinishReason
    reasoning: str | None
    answer: str
    closed: bool
    reasoning_kind: ReasoningKind = "full"
    text: str = ""
    system: str | None = None
    """The system prompt it was asked with, where the problem itself has none."""
    rationalised: bool = False
    """Asked with the answer as a hint (STaR): its trace is kept without the hint and marked."""
    prompt_ids: tuple[int, ...] | None = None
    prefill_ids: tuple[int, ...] | None = None
    completion_ids: tuple[int, ...] | None = None
    tokenizer: str | None = None
    """Fingerprint of the tokenizer whose ids these are."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int | None = None
    latency_s: float = 0.0
    cost: float | None = None
    error: str | None = None
    logits: str | None = None
    top_logprobs: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    """Of an imported answer: data set, revision, licence, layout, file, row, and what the set claims of it."""
    created: str = ""
    """ISO 8601 in UTC. Kept in the ledger, empty in stage outputs so that they depend on content alone."""

    def serves(self, max_tokens: int, top_logprobs: int = 0) -> bool:
        """Whether it can stand for a request with this limit: it finished within it, or was cut at it or above."""
        if self.finish_reason == "error" or self.top_logprobs < top_logprobs:
            return False
        if self.finish_reason == "length":
            return self.max_tokens >= max_tokens
        return self.completion_tokens <= max_tokens


@dataclass(frozen=True)
class Verdict:
    """What a verifier said of one sample. `key` = sample key + gold or tests + verifier name, version, settings."""

    key: str
    sample_key: str
    value: VerdictValue
    reason: str
    extracted: str | None = None
    score: float | None = None
    step_scores: tuple[float, ...] | None = None
    verifier: str = ""
    verifier_version: int = 0
    label_source: LabelSource = "gold"
    """What it was graded against: the problem's gold, or a label that a majority of samples gave it."""
    label_support: float | None = None
    """Share of the votes that a majority label had."""


def verdict_key(
    sample_key: str, gold: str | None, tests: str | None, verifier: str, version: int, settings: Any
) -> str:
    """Key of one verdict, 64 hex digits."""
    return digest([sample_key, gold, tests, verifier, version, settings])


@dataclass(frozen=True)
class Decision:
    """Whether a sample was kept, or which filter rejected it and why."""

    sample_key: str
    kept: bool
    filter: str = ""
    why: str = ""


@dataclass(frozen=True)
class Trace:
    """What a student trains on.

    `reasoning` None is rendered in the template's no-think form. Ids are present when the engine gave them (or the
    first tokenisation of an import made them) and `tokenizer` says whose they are. `verdict` None is documented
    absence (an import that was not graded). `label_source` tells gold from majority labels and rationalisations.
    """

    key: str
    problem_id: str
    messages: tuple[Message, ...]
    reasoning: str | None
    answer: str
    gold: str | None = None
    domain: str = ""
    source: str = ""
    licence: str = ""
    level: str = ""
    model_id: str = ""
    model_name: str = ""
    finish_reason: FinishReason = "stop"
    closed: bool = True
    prompt_ids: tuple[int, ...] | None = None
    prefill_ids: tuple[int, ...] | None = None
    completion_ids: tuple[int, ...] | None = None
    reasoning_tokens: int | None = None
    tokenizer: str | None = None
    verdict: VerdictValue | None = None
    verdict_reason: str = ""
    extracted: str | None = None
    label_source: LabelSource = "gold"
    label_support: float | None = None
    """Share of the votes that a majority label had; None for other labels."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where an imported trace is from, as in `Sample`."""


@dataclass(frozen=True)
class TraceTokens:
    """Ids that stand for a trace in its teacher's tokens, where they were made of its text by the scoring pass.

    A training row of these very ids has teacher rows. `tokenizer` is the fingerprint of the tokenizer that made them.
    """

    key: str
    prompt_ids: tuple[int, ...]
    prefill_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    tokenizer: str
