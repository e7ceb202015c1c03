"""A GGUF file, or a model folder turned into one, under llama.cpp.

llama.cpp's own server runs in a child process (`distill.gguf.runtime`) and draws answers in parallel slots. A model
folder is converted once, and its prompts are made by its own tokenizer; a bare file is asked to render and tokenise
with what it carries. Each request has its own seed, but llama.cpp's arithmetic depends on what shares a batch, so only
greedy answers, and those only nearly, are the same in any company.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import PositiveFloat, PositiveInt

from distill.core import models
from distill.core.config import Settings, Unkeyed, digest
from distill.core.errors import DistillError
from distill.core.files import read_json
from distill.core.models import resolve
from distill.core.protocols import Codec, Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import FinishReason, Message, ModelIdentity, Sampling
from distill.text.chat import Prompt, decode
from distill.text.think import CLOSE, OPEN, thinking_length

if TYPE_CHECKING:
    from distill.gguf.runtime import Runtime

LEAST_LOGPROB = -103.28
"""Log of the smallest positive float32: what llama.cpp's rounded zero stands for."""

NOTHING: dict[str, Any] = {"tokens": [], "content": "", "stop_type": "limit"}
"""The reply of an answer without a token."""

UNBOUNDED = 1 << 20
"""Context of a model that states none."""

FIRST_CONTEXT = 1024
"""Tokens a slot has at least, so that a server seldom has to be started again for a longer request."""


SCORES = False
"""The server gives log-probabilities of what it draws, not of given ids."""

LARGEST_ONLY = True
"""It sends the largest log-probabilities of a token, never all of them."""


class Config(Settings):
    """Settings of the `llamacpp` engine."""

    slots: Annotated[PositiveInt, Unkeyed] = 16
    """Answers drawn side by side."""
    threads: Annotated[PositiveInt | None, Unkeyed] = None
    """CPU threads. None: as many as this process may use, but one for a file below 64 MiB."""
    gguf_type: Literal["f32", "f16", "bf16", "q8_0"] = "f16"
    """Type that a model folder is converted to; a .gguf file is run as it is."""
    exact: bool = False
    """No flash attention, no prompt reuse, keys and values in float32: for comparing log-probabilities."""
    timeout_s: Annotated[PositiveFloat | None, Unkeyed] = None
    """Longest wait for one answer. None: no limit."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """Content hash of the .gguf file, or of the model folder in the type that it is run in: rounded weights answer
    differently, so their answers are kept apart in the ledger.
    """
    own = models.identify(model, revision)
    if not resolve(model, revision).is_dir():
        return own
    return replace(own, id=digest([own.id, f"gguf-{config.gguf_type}"])[:32])


def build(config: Config, model: str, revision: str | None = None) -> LlamaCppEngine:
    """Make the engine; the server starts with the first request, when its context is known."""
    return LlamaCppEngine(config, model, revision)


def codec(config: Config, model: str, revision: str | None = None) -> Codec:
    """The folder's tokenizer alone; of a bare file its own vocabulary, which the server reads."""
    path = resolve(model, revision)
    if not path.is_dir():
        return LlamaCppEngine(config, model, revision)
    from distill.text.chat import TokenizerCodec

    return TokenizerCodec(_text_folder(path))


@dataclass(frozen=True)
class _Job:
    request: Request
    prompt: Prompt
    limit: int


class LlamaCppEngine:
    """llama.cpp's server and what is needed to talk to it in ids."""

    name = "llamacpp"

    def __init__(self, config: Config, model: str, revision: str | None = None) -> None:
        self.config = config
        self.identity = identify(config, model, revision)
        self._runtime: Runtime | None = None
        self._tokenizer: Any = None
        self._close_tag: tuple[int, ...] | None = None
        self._vocab_size = 0
        path = resolve(model, revision)
        if path.is_dir():
            from distill.text.chat import load_tokenizer

            base = models.base_of(path)
            self._tokenizer = load_tokenizer(_text_folder(path))
            shape = read_json((path if base is None else resolve(base)) / "config.json")
            self.context: int | None = shape.get("text_config", shape).get("max_position_embeddings")
            self.file = _converted(path, self.identity.id, config.gguf_type)
        else:
            self.file = path
            self.context = self._about()["n_ctx_train"]

    def close(self) -> None:
        """End the server."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None

    # ---- generate

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request as each ends; see `Engine.generate`."""
        jobs = self._plan(requests)
        open_jobs = [job for job in jobs if job.limit > 0]
        for job in jobs:
            if job.limit <= 0:
                yield self._completion(job, NOTHING, 0.0)
        if not open_jobs:
            return
        runtime = self._serve(max(_needed(job) for job in open_jobs))
        self._vocab_size = self._about()["n_vocab"]
        pool = ThreadPoolExecutor(self.config.slots, thread_name_prefix="llamacpp")
        try:
            for done in as_completed([pool.submit(self._draw, runtime, job) for job in open_jobs]):
                yield done.result()
        except BaseException:  # stopped (Ctrl-C), or left early: end the server, so that no thread waits for it
            self.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def stream(self, messages: Sequence[Message], sampling: Sampling, key: str = "") -> Iterator[str]:
        """Yield one answer's text in pieces as it is drawn.

        The first piece is the think block that the template opened, where it did.
        """
        (job,) = self._plan([Request(key, tuple(messages), sampling)])
        if job.prompt.opened:
            yield f"{OPEN}\n"
        for event in self._serve(_needed(job)).stream("/completion", self._body(job), self.config.timeout_s):
            if event.get("content"):
                yield event["content"]

    def room(self, messages: Sequence[Message], thinking: bool | None = None) -> int:
        """Tokens that an answer to these messages may have."""
        return max(0, (self.context or UNBOUNDED) - len(self._prompt(tuple(messages), thinking).ids))

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        """Refused: the server gives log-probabilities of what it draws, not of given ids."""
        del requests, keep
        raise DistillError(
            f"model {self.identity.name}: engine `llamacpp` cannot score given tokens; score with engine `transformers`"
        )

    def _plan(self, requests: Iterable[Request]) -> list[_Job]:
        prompts: dict[tuple[tuple[Message, ...], bool | None], Prompt] = {}
        jobs = []
        for request in requests:
            request.sampling.numbers()
            asked = (request.messages, request.sampling.thinking)
            if asked not in prompts:
                prompts[asked] = self._prompt(*asked)
            job = _Job(request, prompts[asked], request.sampling.max_tokens - len(request.prefix_ids))
            if self.context is not None and _needed(job) > self.context:
                raise DistillError(
                    f"model {self.identity.name}: a prompt of {len(job.prompt.ids)} tokens and max_tokens "
                    f"{request.sampling.max_tokens} need a context of {_needed(job)}, the model has {self.context}; "
                    f"set max_tokens to at most {max(0, self.context - len(job.prompt.ids))} or shorten the prompt"
                )
            jobs.append(job)
        return jobs

    def _prompt(self, messages: tuple[Message, ...], thinking: bool | None) -> Prompt:
        """Ids of a prompt: by the folder's tokenizer, or by the file's own template and vocabulary."""
        if self._tokenizer is not None:
            from distill.text.chat import render_prompt

            return render_prompt(self._tokenizer, messages, thinking)
        from distill.text.chat import prefill_start

        runtime = self._serve()
        turns: dict[str, Any] = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
        if thinking is not None:
            turns["chat_template_kwargs"] = {"enable_thinking": thinking}
        text = runtime.post("/apply-template", turns)["prompt"]
        before = runtime.post("/apply-template", {**turns, "add_generation_prompt": False})["prompt"]
        start, opened = prefill_start(text, before)
        ids = [self.encode(part) for part in (text[:start], text[start:])]
        return Prompt(ids[0], ids[1], opened)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, without a BOS, by what the server reads."""
        asked = {"content": text, "add_special": False, "parse_special": True}
        return tuple(self._serve().post("/tokenize", asked)["tokens"])

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included."""
        if self._tokenizer is not None:
            return decode(self._tokenizer, ids)
        text: str = self._serve().post("/detokenize", {"tokens": list(ids)})["content"]
        return text

    def _draw(self, runtime: Runtime, job: _Job) -> Completion:
        """One answer; one that the server refuses or does not finish in time carries the error."""
        from distill.gguf.runtime import ServerEnded

        started_s = time.monotonic()
        try:
            reply = runtime.post("/completion", self._body(job), self.config.timeout_s)
        except ServerEnded:
            raise
        except DistillError as error:
            failed = self._completion(job, NOTHING, time.monotonic() - started_s)
            return replace(failed, finish_reason="error", logprobs=None, error=str(error))
        return self._completion(job, reply, time.monotonic() - started_s)

    def _body(self, job: _Job) -> dict[str, Any]:
        """What the server is asked: temperature, top_k and top_p in that order, and none of its other samplers."""
        sampling = job.request.sampling
        seed = int.from_bytes(hashlib.sha256(job.request.key.encode()).digest()[:4], "big")
        return {
            "prompt": [*job.prompt.ids, *job.request.prefix_ids],
            "n_predict": job.limit,
            "samplers": ["temperature", "top_k", "top_p"],
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": 0.0,
            "seed": seed % 0xFFFFFFFF,  # the largest value means "draw one"
            "n_probs": sampling.top_logprobs,
            "return_tokens": True,
            "preserved_tokens": [OPEN, CLOSE],
            "cache_prompt": not self.config.exact,
        }

    def _completion(self, job: _Job, reply: dict[str, Any], latency_s: float) -> Completion:
        ids = tuple(reply["tokens"])
        reason: FinishReason = "stop" if reply["stop_type"] == "eos" else "length"
        text = reply["content"]
        if self._tokenizer is not None:
            text = self.decode(ids[:-1] if reason == "stop" else ids)
        k = job.request.sampling.top_logprobs
        return Completion(
            key=job.request.key,
            text=text,
            finish_reason=reason,
            prompt_ids=job.prompt.prompt_ids,
            prefill_ids=job.prompt.prefill_ids,
            completion_ids=ids,
            prompt_tokens=len(job.prompt.ids),
            completion_tokens=len(ids),
            opened=job.prompt.opened,
            latency_s=latency_s,
            logprobs=_recorded(ids, reply.get("completion_probabilities", []), k, self._vocab_size)
            if k and ids
            else None,
            reasoning_tokens=self._thinking(ids) if ids else 0,
        )

    def _thinking(self, ids: tuple[int, ...]) -> int | None:
        """How many of the ids are thinking. None for a file alone whose vocabulary has no token for the close tag."""
        if self._tokenizer is not None:
            return thinking_length(ids, self.decode)
        if self._close_tag is None:
            self._close_tag = self.encode(CLOSE)
        if len(self._close_tag) != 1:
            return None
        (close,) = self._close_tag
        return thinking_length(ids, lambda part: CLOSE * list(part).count(close))

    # ---- the server

    def _about(self) -> dict[str, int]:
        """What the server says of the model: `n_vocab`, `n_ctx_train`."""
        about: dict[str, int] = self._serve().get("/v1/models")["data"][0]["meta"]
        return about

    def _serve(self, tokens: int = 0) -> Runtime:
        """The running server, started again where its slots are too short for `tokens`."""
        from distill.gguf.runtime import Runtime, RuntimeSettings

        if self._runtime is not None and self._runtime.settings.context < tokens:
            self.close()
        if self._runtime is None:
            whole = -(-max(tokens, FIRST_CONTEXT) // 256) * 256
            settings = RuntimeSettings(whole, self.config.slots, self.config.threads, self.config.exact)
            self._runtime = Runtime(self.file, settings)
        return self._runtime


def _text_folder(folder: Path) -> Path:
    """Where a model folder's tokenizer is: an adapter without one has its base's."""
    base = models.base_of(folder)
    return folder if base is None or (folder / "tokenizer.json").exists() else resolve(base)


def _needed(job: _Job) -> int:
    return len(job.prompt.ids) + max(job.request.sampling.max_tokens, len(job.request.prefix_ids))


def _converted(folder: Path, identity: str, kind: str) -> Path:
    """The folder as a GGUF file, made once: its name is the hash of its content."""
    cache = Path(tempfile.gettempdir()) / f"distill-gguf-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != os.getuid():
        raise DistillError(f"{cache}: another user's; remove it, or set TMPDIR to a folder of your own")
    file = cache / f"{identity}-{kind}.gguf"
    if not file.exists():
        from distill.gguf.convert import convert

        convert(folder, file, kind)
    return file


def _recorded(ids: Sequence[int], entries: Sequence[dict[str, Any]], k: int, vocab_size: int) -> TokenLogprobs:
    """The server's rows, each at its token.

    It gives none for a token that ends in half a character, and none for an end token after one; which tokens the rows
    it does give belong to is found by id from both ends, and a row with two possible places is left out.
    """
    import numpy as np

    n = len(ids)
    k = min(k, vocab_size)
    ids_NK = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    top_NK = np.zeros((n, k), np.float32)
    tail_N, realised_N, present_N = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.bool_)
    from_left = _places(ids, [entry["id"] for entry in entries])
    from_right = [n - 1 - j for j in reversed(_places(ids[::-1], [entry["id"] for entry in reversed(entries)]))]
    for j, other, entry in zip(from_left, from_right, entries, strict=True):
        if j != other or len(entry["top_logprobs"]) < k:
            continue
        top = sorted(((max(e["logprob"], LEAST_LOGPROB), -e["id"]) for e in entry["top_logprobs"][:k]), reverse=True)
        ids_NK[j] = [-token for _, token in top]
        top_NK[j] = [value for value, _ in top]
        realised_N[j] = max(entry["logprob"], LEAST_LOGPROB)
        tail_N[j] = _tail([value for value, _ in top], vocab_size)
        present_N[j] = True
    return TokenLogprobs(ids_NK, top_NK, tail_N, realised_N, present_N)


def _places(ids: Sequence[int], rows: Sequence[int]) -> list[int]:
    """The first place for each row in order; rows are a subsequence of the ids."""
    places, at = [], 0
    for row in rows:
        while ids[at] != row:
            at += 1
        places.append(at)
        at += 1
    return places


def _tail(logprobs: Sequence[float], vocab_size: int) -> float:
    """Log of the mass outside the recorded entries.

    Only what is inside is known, to about 1e-7: one minus its sum, but no more than as much as every entry outside
    could have, which is at most the smallest one inside.
    """
    outside = vocab_size - len(logprobs)
    if outside == 0:
        return -math.inf
    most = math.log(outside) + min(logprobs)
    left = 1.0 - math.fsum(math.exp(value) for value in logprobs)
    return min(math.log(left), most) if left > 0 else most
