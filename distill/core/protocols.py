"""What engines, verifiers and filters are to the stages that use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from distill.core.records import (
    FinishReason,
    Message,
    ModelIdentity,
    Problem,
    ReasoningKind,
    Sample,
    Sampling,
    Trace,
    VerdictValue,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.core.plugins import Choice


@dataclass(frozen=True)
class TokenLogprobs:
    """Teacher log-probabilities at temperature 1 of the tokens of one completion: row j belongs to completion token j.

    n completion tokens, k recorded entries. `ids_NK` int32, distinct in a row, most probable first; `logprobs_NK`
    float32 in nats; `tail_N` float32 log of the probability mass outside the k ids; `realised_N` float32
    log-probability of the token that was drawn, also when it is outside the top k; `present_N` bool, False where the
    engine gave nothing for that token (its other entries are then meaningless). `tails` has float32 [N] a recorded
    temperature T other than 1: log of the sum of p^(1/T) outside the k ids, NaN where it was not recorded.
    """

    ids_NK: NDArray[np.int32]
    logprobs_NK: NDArray[np.float32]
    tail_N: NDArray[np.float32]
    realised_N: NDArray[np.float32]
    present_N: NDArray[np.bool_]
    tails: Mapping[float, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class SampledLogprobs:
    """Draws from the teacher's whole distribution at temperature 1, for the tokens of one completion.

    n completion tokens, e entries over all of them: row j has the entries `offset[j]` to `offset[j + 1]`, one a
    distinct id. `offset` int64 [n + 1]; `ids_E` int32, ascending in a row; `counts_E` int32, how often each was drawn
    (a row's sum is the number of draws); `logprobs_E` float32 log p of each, None where only temperature 1 was asked
    for. `entropy_N` float32 in nats of the whole distribution; `realised_N` and `present_N` as in `TokenLogprobs`; an
    absent row has no entries. `normalisers` and `entropies` have float32 [n] a temperature T other than 1: log of the
    sum of p^(1/T) over the vocabulary, and the entropy of the distribution at T.
    """

    offset: NDArray[np.int64]
    ids_E: NDArray[np.int32]
    counts_E: NDArray[np.int32]
    logprobs_E: NDArray[np.float32] | None
    entropy_N: NDArray[np.float32]
    realised_N: NDArray[np.float32]
    present_N: NDArray[np.bool_]
    normalisers: Mapping[float, NDArray[np.float32]] = field(default_factory=dict)
    entropies: Mapping[float, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Keep:
    """What to keep of a teacher's distribution: its `top_k` largest entries, or `draws` ids drawn from it.

    `temperatures` are those other than 1 at which a loss will soften it: each needs a figure of its own, which can
    only be taken from the whole distribution.
    """

    top_k: int = 0
    draws: int = 0
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.top_k and self.draws:
            raise ValueError("either the largest entries are kept or drawn ones, not both")


@dataclass(frozen=True)
class Request:
    """One answer to draw. `key` names it and seeds its noise: the draw depends on nothing else.

    `prefix_ids` continues an answer: completion tokens that are already there, fed after the prompt and not returned
    again.
    """

    key: str
    messages: tuple[Message, ...]
    sampling: Sampling
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One answer as the engine drew it. `text` is the decoded completion without its stop token; ids as in `Sample`."""

    key: str
    text: str
    finish_reason: FinishReason
    prompt_ids: tuple[int, ...] | None
    prefill_ids: tuple[int, ...] | None
    completion_ids: tuple[int, ...] | None
    prompt_tokens: int
    completion_tokens: int
    opened: bool
    """Whether the prompt itself opened the think block (the completion then starts inside reasoning)."""
    reasoning_tokens: int | None = None
    """Completion tokens up to and with the close tag; all of them when thinking never ended; None where unknown."""
    latency_s: float = 0.0
    logprobs: TokenLogprobs | None = None
    error: str | None = None
    failure: str = ""
    """Kind of the error, for counting: `429`, `500`, `timeout`, `reset`, `bad body`, `budget` ..."""
    reasoning: str | None = None
    """Reasoning that came apart from `text`, in a field of its own; `text` is then the answer alone."""
    reasoning_kind: ReasoningKind | None = None
    """What `reasoning` is worth, where the server or its family says so; None leaves it to the text."""


class Meter(Protocol):
    """What a sampling may still spend. Engines that pay for every try ask before each one. Thread-safe.

    Amounts are tokens of one try. Worst cases are reserved, usage settles them, so that a budget is never exceeded.
    """

    def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> bool:
        """Set the worst case of one try aside. False: it does not fit now; wait for others to settle, or give up."""

    def settle(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        """What the try that was reserved for `key` cost: its usage; the worst case where a lost reply may be billed;
        zeros where it was refused. Once for every `reserve` that said yes.
        """

    def failed(self, kind: str) -> None:
        """Count a try that failed, whether or not it is tried again."""


@runtime_checkable
class Metered(Protocol):
    """An engine that asks a meter before every try. `meter` is set before `generate`; None: nothing is limited."""

    meter: Meter | None


@runtime_checkable
class Longest(Protocol):
    """An engine that pulls requests as it goes, and checks the longest prompts before the first. Set like `meter`."""

    longest: Sequence[Request]


@dataclass(frozen=True)
class ScoreRequest:
    """Tokens whose log-probabilities are wanted: `prompt_ids` (prefill included) then `completion_ids`."""

    key: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


class Engine(Protocol):
    """Where tokens come from. One instance serves one model; `close` frees it, and is safe to call twice."""

    name: str
    identity: ModelIdentity

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request, in any order, as each finishes. A failed one carries `error`.

        Raises DistillError before drawing anything if a prompt and its `max_tokens` cannot fit the context.
        """

    def score(
        self, requests: Iterable[ScoreRequest], keep: Keep
    ) -> Iterator[tuple[str, TokenLogprobs | SampledLogprobs]]:
        """Yield (key, what is to be kept of the completion tokens' distributions), in any order.

        `SampledLogprobs` where `keep.draws` is set, with noise that depends on the request's key alone. Raises
        DistillError if the engine cannot score given ids, or cannot keep that of them.
        """

    def close(self) -> None:
        """Free the model."""


class Codec(Protocol):
    """A model's own tokenizer, without the model. Engines that can continue an answer have a module function

        codec(config, model, revision=None) -> Codec

    which raises DistillError where these settings leave it none; `close` ends what it may have started.
    """

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text; tags and special tokens in it are one id where the vocabulary has them."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included; half a character becomes U+FFFD."""

    def close(self) -> None:
        """Free it."""


@dataclass(frozen=True)
class Finding:
    """A verifier's word on one answer, before it is tied to a sample."""

    value: VerdictValue
    reason: str
    extracted: str | None = None
    score: float | None = None
    step_scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """What a verifier sees of one sample: the final answer (never the thinking), the gold, and how the text ended.

    `extracted` True means that `text` is an already extracted answer, to be compared as it is. `reasoning` is for
    verifiers of form and language alone: an answer is never read from it.
    """

    text: str
    gold: str | None
    tests: str | None = None
    finish_reason: FinishReason = "stop"
    closed: bool = True
    extracted: bool = False
    reasoning: str | None = None
    question: str = ""
    """The last user turn, for verifiers that must know what was asked."""


class Verifier(Protocol):
    """Grades answers. `version` changes whenever a verdict could."""

    name: str
    version: int

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order. Never raises for what an answer contains."""

    def close(self) -> None:
        """End worker processes."""


class AskModel(Protocol):
    """Puts questions to a model through the ledger: an answer that is there is not bought again."""

    def __call__(
        self,
        engine: Choice,
        model: str,
        problems: Sequence[Problem],
        n: int,
        sampling: Sampling,
        most_tokens: int | None,
    ) -> list[Sample]:
        """`n` answers to each problem, by problem and index; one that failed has `finish_reason="error"`.

        `most_tokens` is the most that all calls of one grading may cost; raises DistillError where it is spent.
        """


@runtime_checkable
class Asking(Protocol):
    """A verifier that asks a model. `ask` is set before `grade`; None: there is no one to ask."""

    ask: AskModel | None


@runtime_checkable
class Screen(Protocol):
    """A filter that needs to see one trace only. Runs in any process, in any order."""

    def fault(self, trace: Trace) -> str:
        """Why the trace is rejected, in a few words that many traces share (they are counted); empty: it passes."""


@runtime_checkable
class Remarks(Protocol):
    """A screen that also has something to say of traces it lets pass; remarks are counted beside the rejections."""

    def remark(self, trace: Trace) -> str:
        """What is remarkable about it, in words that many share; empty: nothing."""


class Noted(NamedTuple):
    """What a selection knows of one trace: its own note, and what every trace has."""

    key: str
    problem_id: str
    note: Any


@runtime_checkable
class Selection(Protocol):
    """A filter that decides among all traces that are left: duplicates, caps, bands, mixtures."""

    def note(self, trace: Trace) -> Any:
        """What must be known of one trace: plain, picklable and small, since those of all traces are held at once."""

    def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
        """Why, by place, each trace that goes is rejected. Does not depend on their order: ties break by key."""


Filter = Screen | Selection
