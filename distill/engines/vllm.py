"""vLLM in this process, for models that need a GPU's whole throughput; `openai` talks to a vLLM that runs elsewhere.

Prompts are made by the model's own tokenizer and template here, so that ids are the same as on every other engine;
vLLM is given ids and gives ids. Each answer has its own seed, but vLLM's arithmetic depends on what shares a batch:
the same answer in other company is likely, not promised. Log-probabilities are those before temperature and nucleus.

vLLM pins other releases of torch and transformers than this package: it needs an environment of its own.

Shapes: N completion tokens, K recorded entries.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, PositiveInt

from distill.core import models, plugins
from distill.core.config import Settings, Unkeyed, digest
from distill.core.errors import DistillError, MissingExtra
from distill.core.models import resolve
from distill.core.protocols import Codec, Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import FinishReason, Message, ModelIdentity, Sampling
from distill.served.logprobs import Row, as_logprobs
from distill.text.think import thinking_length

if TYPE_CHECKING:
    from distill.text.chat import Prompt

T = TypeVar("T")

ARGUMENTS = ("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens")
"""What `teacher.arguments` may hold beside the usual settings, under vLLM's names."""


LARGEST_ONLY = True
"""vLLM hands over the largest log-probabilities of a token, never all of them."""


class Config(Settings):
    """Settings of the `vllm` engine."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of the weights; auto takes the model's own."""
    quantization: str | None = None
    """Quantise while loading (`fp8`, `bitsandbytes`); None runs the weights as they are."""
    context: Annotated[PositiveInt | None, Unkeyed] = None
    """Longest prompt and answer together, in tokens. None: what the model states; less needs less memory."""
    in_flight: Annotated[PositiveInt, Unkeyed] = 1024
    """Requests that vLLM holds at a time; it decides itself how many of them it runs side by side."""
    max_logprobs: Annotated[PositiveInt, Unkeyed] = 128
    """Most log-probabilities a token that can be asked for."""
    tensor_parallel: Annotated[PositiveInt, Unkeyed] = 1
    """GPUs that share each layer."""
    gpu_memory_share: Annotated[float, Unkeyed] = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM may take."""
    eager: Annotated[bool, Unkeyed] = False
    """No CUDA graphs: slower, starts sooner."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """Content hash of the model folder; a precision or quantisation that was asked for is part of it."""
    folder = _folder(model, revision)
    own = models.identify(str(folder) if revision is not None else model)
    if config.dtype == "auto" and config.quantization is None:
        return own
    return replace(own, id=digest([own.id, config.dtype, config.quantization])[:32])


def build(config: Config, model: str, revision: str | None = None) -> VllmEngine:
    """Load the model. Raises DistillError where vLLM cannot."""
    return VllmEngine(config, model, revision)


def codec(config: Config, model: str, revision: str | None = None) -> Codec:
    """The model's tokenizer alone."""
    from distill.text.chat import TokenizerCodec

    del config
    return TokenizerCodec(_folder(model, revision))


@dataclass(frozen=True)
class _Job:
    request: Request
    prompt: Prompt
    limit: int

    @property
    def fed(self) -> list[int]:
        return [*self.prompt.ids, *self.request.prefix_ids]


class VllmEngine:
    """vLLM's engine and what is needed to talk to it in ids."""

    name = "vllm"

    def __init__(self, config: Config, model: str, revision: str | None = None) -> None:
        from transformers import GenerationConfig

        from distill.text.chat import load_tokenizer, stop_ids, vocabulary_size

        folder = _folder(model, revision)
        self.config = config
        self.identity = identify(config, model, revision)
        self.tokenizer = load_tokenizer(folder)
        self.vocab_size = vocabulary_size(self.tokenizer)
        has_settings = (folder / "generation_config.json").exists()
        self.stops = stop_ids(self.tokenizer, GenerationConfig.from_pretrained(folder) if has_settings else None)
        if not self.stops:
            raise DistillError(f"{folder}: neither generation_config.json nor the tokenizer names a token to stop at")
        self._vllm = _package()
        self._engine: Any = self._load(folder)
        self.context: int = self._engine.model_config.max_model_len
        self._count = 0

    def _load(self, folder: Path) -> Any:
        config = self.config
        arguments = self._vllm.EngineArgs(
            model=str(folder),
            dtype=config.dtype,
            quantization=config.quantization,
            max_model_len=config.context,
            max_logprobs=config.max_logprobs,
            logprobs_mode="raw_logprobs",  # before temperature and nucleus
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.gpu_memory_share,
            enforce_eager=config.eager,
            trust_remote_code=False,
            disable_log_stats=True,
            seed=0,
        )
        try:
            return self._vllm.LLMEngine.from_engine_args(arguments)
        except (ValueError, OSError, RuntimeError) as error:
            raise DistillError(f"{folder}: vLLM cannot load it ({_line(error)})") from error

    def close(self) -> None:
        """End vLLM and free the GPU."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()
            del engine
            gc.collect()

    # ---- generate

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request as each ends; see `Engine.generate`."""
        jobs = self._plan(requests)
        for job in jobs:
            if self._over(job):
                yield self._completion(job, (), "length", None, 0.0)
        fed = ((job, job.fed, self._params(job)) for job in jobs if not self._over(job))
        for job, output, latency_s in self._drive(fed):
            if isinstance(output, str):
                yield self._failed(job, (), output, latency_s)
            elif output.finished:
                drawn = output.outputs[0]
                ids = tuple(drawn.token_ids)
                if drawn.finish_reason in ("stop", "length"):
                    yield self._completion(job, ids, drawn.finish_reason, drawn.logprobs, latency_s)
                else:
                    yield self._failed(job, ids, f"vLLM ended it: {drawn.finish_reason}", latency_s)

    def stream(self, messages: Sequence[Message], sampling: Sampling, key: str = "") -> Iterator[str]:
        """Yield one answer's text in pieces as it is drawn; half a character waits for its other half.

        The first piece is the think block that the template opened, where it did.
        """
        (job,) = self._plan([Request(key, tuple(messages), sampling)])
        if job.prompt.opened:
            yield self._decode(job.prompt.prefill_ids)
        shown = 0
        for _, output, _ in self._drive(iter([(job, job.fed, self._params(job, whole=False))])):
            if isinstance(output, str):
                raise DistillError(f"model {self.identity.name}: vLLM refuses the prompt ({output})")
            drawn = output.outputs[0]
            text = self._decode(_without_stop(tuple(drawn.token_ids), self.stops))
            if drawn.finish_reason is not None or not text.endswith("\ufffd"):
                yield text[shown:]
                shown = len(text)

    def room(self, messages: Sequence[Message], thinking: bool | None = None) -> int:
        """Tokens that an answer to these messages may have."""
        from distill.text.chat import render_prompt

        return max(0, self.context - len(render_prompt(self.tokenizer, messages, thinking).ids))

    def _plan(self, requests: Iterable[Request]) -> list[_Job]:
        """Turn messages into ids; refuse, before anything is drawn, what cannot be."""
        from distill.text.chat import render_prompt

        prompts: dict[tuple[tuple[Message, ...], bool | None], Prompt] = {}
        jobs = []
        for request in requests:
            sampling = request.sampling
            self._refuse_unknown(sampling)
            asked = (request.messages, sampling.thinking)
            if asked not in prompts:
                prompts[asked] = render_prompt(self.tokenizer, *asked)
            prompt, limit = prompts[asked], sampling.max_tokens
            needed = len(prompt.ids) + max(limit, len(request.prefix_ids))
            if needed > self.context:
                raise DistillError(
                    f"model {self.identity.name}: a prompt of {len(prompt.ids)} tokens and max_tokens {limit} need a "
                    f"context of {needed}, the model has {self.context}; set max_tokens to at most "
                    f"{max(0, self.context - len(prompt.ids))} or shorten the prompt"
                )
            jobs.append(_Job(request, prompt, limit - len(request.prefix_ids)))
        return jobs

    def _refuse_unknown(self, sampling: Sampling) -> None:
        if sampling.temperature is None or sampling.top_p is None:
            raise DistillError("engine `vllm` needs a temperature and top_p: set `sample_temperature` and `top_p`")
        if unknown := sorted(set(sampling.arguments) - set(ARGUMENTS)):
            raise DistillError(f"engine `vllm` takes no argument `{unknown[0]}`; it has {', '.join(ARGUMENTS)}")
        if sampling.top_logprobs > self.config.max_logprobs:
            raise DistillError(
                f"engine `vllm`: top_logprobs {sampling.top_logprobs} is over the engine's `max_logprobs` "
                f"{self.config.max_logprobs}; raise that"
            )

    def _over(self, job: _Job) -> bool:
        """Whether a prefix already ended, or is as long as the answer may be."""
        prefix = job.request.prefix_ids
        return job.limit <= 0 or (bool(prefix) and prefix[-1] in self.stops)

    def _drive(self, fed: Iterator[tuple[T, list[int], Any]]) -> Iterator[tuple[T, Any, float]]:
        """Feed vLLM (what for, ids, parameters) and yield (what for, output, seconds) as it gives them.

        In place of its output, one that vLLM refuses has the reason as a text. What is unfinished when this is left
        early is aborted. Raises DistillError if vLLM itself ends.
        """
        engine = self._engine
        running: dict[str, tuple[T, float]] = {}
        more = True
        try:
            while more or running:
                while more and len(running) < self.config.in_flight:
                    asked = next(fed, None)
                    if asked is None:
                        more = False
                        break
                    purpose, ids, params = asked
                    self._count += 1
                    name = f"distill-{self._count}"
                    try:
                        engine.add_request(name, {"prompt_token_ids": ids}, params)
                    except ValueError as error:
                        yield purpose, _line(error), 0.0
                        continue
                    running[name] = purpose, time.monotonic()
                outputs = engine.step() if running else []
                given = [(running[output.request_id], output) for output in outputs]
                for output in outputs:
                    if output.finished:
                        del running[output.request_id]
                for (purpose, started_s), output in given:
                    yield purpose, output, time.monotonic() - started_s
        except RuntimeError as error:
            running.clear()
            raise DistillError(f"model {self.identity.name}: vLLM ended ({_line(error)})") from error
        finally:
            if running:
                engine.abort_request(list(running))

    def _params(self, job: _Job, *, whole: bool = True) -> Any:
        """vLLM's parameters; `whole` gives nothing before an answer has ended."""
        kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
        sampling = job.request.sampling
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=int.from_bytes(hashlib.sha256(job.request.key.encode()).digest()[:4], "big") & 0x7FFFFFFF,
            max_tokens=job.limit,
            logprobs=sampling.top_logprobs or None,
            stop_token_ids=sorted(self.stops),
            detokenize=False,
            output_kind=kinds.FINAL_ONLY if whole else kinds.CUMULATIVE,
            **sampling.arguments,
        )

    def _failed(self, job: _Job, ids: tuple[int, ...], why: str, latency_s: float) -> Completion:
        done = self._completion(job, ids, "length", None, latency_s)
        return replace(done, finish_reason="error", error=why, failure="vllm")

    def _completion(
        self, job: _Job, ids: tuple[int, ...], reason: FinishReason, rows: Any, latency_s: float
    ) -> Completion:
        request, prompt = job.request, job.prompt
        if not ids and request.prefix_ids and request.prefix_ids[-1] in self.stops:
            reason = "stop"
        k = request.sampling.top_logprobs
        return Completion(
            key=request.key,
            text=self._decode(_without_stop(ids, self.stops)),
            finish_reason=reason,
            prompt_ids=prompt.prompt_ids,
            prefill_ids=prompt.prefill_ids,
            completion_ids=ids,
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(ids),
            opened=prompt.opened,
            latency_s=latency_s,
            logprobs=self._logprobs(ids, rows, k) if k and ids and rows is not None else None,
            reasoning_tokens=thinking_length(ids, self._decode) if ids else 0,
        )

    def _logprobs(self, ids: Sequence[int], rows: Sequence[Any], k: int) -> TokenLogprobs | None:
        """vLLM's entries for each token, a mapping of ids with the drawn one among them, as rows."""
        found = []
        for token, entries in zip(ids, rows, strict=True):
            drawn = entries.get(token)
            top = tuple((other, entry.logprob) for other, entry in entries.items())
            found.append(Row(token if drawn is not None else None, None if drawn is None else drawn.logprob, top))
        logprobs, _ = as_logprobs(ids, found, k, self.vocab_size)
        return logprobs

    def _decode(self, ids: Sequence[int]) -> str:
        from distill.text.chat import decode

        return decode(self.tokenizer, ids)

    # ---- score

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        """Yield the log-probabilities of given completion tokens; see `Engine.score`.

        vLLM reads prompt and completion as one prompt and draws one token more, which is thrown away.
        """
        if keep.draws or keep.temperatures:
            raise DistillError(
                "engine `vllm` sees only the largest log-probabilities of a token: no draws, and no loss temperature "
                "but 1; score with engine `transformers`"
            )
        asked, top_k = list(requests), keep.top_k
        k = max(1, top_k)
        if k > self.config.max_logprobs:
            raise DistillError(
                f"engine `vllm`: top_k {k} is over the engine's `max_logprobs` {self.config.max_logprobs}; raise that"
            )
        for request in asked:
            tokens = len(request.prompt_ids) + len(request.completion_ids)
            if not request.prompt_ids or not request.completion_ids or tokens + 1 > self.context:
                raise DistillError(
                    f"model {self.identity.name}: cannot score {request.key[:12]}: {len(request.prompt_ids)} prompt "
                    f"and {len(request.completion_ids)} completion tokens, in a context of {self.context}"
                )
            if max(request.prompt_ids + request.completion_ids) >= self.vocab_size:
                raise DistillError(
                    f"model {self.identity.name}: cannot score {request.key[:12]}: it has ids of another tokenizer "
                    f"(this one has {self.vocab_size} entries)"
                )
        params = self._vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=k, detokenize=False)
        fed = ((request, [*request.prompt_ids, *request.completion_ids], params) for request in asked)
        for request, output, _ in self._drive(fed):
            if isinstance(output, str):
                raise DistillError(f"model {self.identity.name}: cannot score {request.key[:12]}: {output}")
            if output.finished:
                yield request.key, self._scored(request, output.prompt_logprobs, top_k)

    def _scored(self, request: ScoreRequest, rows: Sequence[Any], top_k: int) -> TokenLogprobs:
        """Rows of the completion: entry j of `rows` belongs to token j of the whole prompt, the first has none."""
        start, n = len(request.prompt_ids), len(request.completion_ids)
        if rows is None or len(rows) != start + n:
            got = "none" if rows is None else f"{len(rows)}"
            raise DistillError(
                f"model {self.identity.name}: vLLM gave {got} rows for the {start + n} tokens of {request.key[:12]}"
            )
        logprobs = self._logprobs(request.completion_ids, rows[start:], max(1, top_k))
        if logprobs is None:
            raise DistillError(f"model {self.identity.name}: vLLM's rows for {request.key[:12]} do not fit its tokens")
        if top_k:
            return logprobs
        return replace(logprobs, ids_NK=logprobs.ids_NK[:, :0], logprobs_NK=logprobs.logprobs_NK[:, :0])


def _without_stop(ids: tuple[int, ...], stops: set[int]) -> tuple[int, ...]:
    return ids[:-1] if ids and ids[-1] in stops else ids


def _folder(model: str, revision: str | None) -> Path:
    path = resolve(model, revision)
    if not path.is_dir():
        raise DistillError(f"engine `vllm`: {path} is not a model folder; a .gguf file needs engine `llamacpp`")
    if models.base_of(path) is not None:
        raise DistillError(
            f"engine `vllm`: {path} is an adapter; merge it first (`distill export`), or use `transformers`"
        )
    return path


def _package() -> Any:
    """The vllm package, with its telemetry off and its log on stderr unless the user set them."""
    for name, value in (
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_LOGGING_LEVEL", "WARNING"),
        ("VLLM_LOGGING_STREAM", "ext://sys.stderr"),
    ):
        os.environ.setdefault(name, value)
    try:
        return plugins.require("engine `vllm`", "vllm", "vllm")
    except MissingExtra as error:
        raise MissingExtra(
            "engine `vllm` needs the vllm package, which pins other releases of torch and transformers than distill: "
            "`pip install vllm` in an environment of its own; or run `vllm serve MODEL` there and use engine `openai`"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
