"""Scoring given tokens on a vLLM server: the log-probabilities of its prompt, by the completions API.

The whole trace goes out as a prompt of ids with `prompt_logprobs`, and one token is drawn that nobody reads. The server
makes logits of every prompt token at once, in memory that it has not planned for, so what is in flight is bounded in
tokens. Not run against a real vLLM server so far: the tests' own server speaks its protocol.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from distill.core.errors import DistillError
from distill.core.protocols import Completion, Request, ScoreRequest, TokenLogprobs
from distill.core.records import Sampling
from distill.served.endpoints import Endpoint, Endpoints
from distill.served.faults import Fault
from distill.served.logprobs import as_logprobs, prompt_rows

DRAWN = Sampling(temperature=0.0, top_p=1.0, max_tokens=1)
"""vLLM draws at least one token."""


class Posting(Protocol):
    """What scoring needs of the engine's sender."""

    context: int | None
    endpoints: Endpoints

    async def open(self) -> None:
        """Connect and look at the servers."""

    async def close(self) -> None:
        """Close the connections."""

    async def complete(self, body: dict[str, Any], endpoint: Endpoint) -> Any:
        """POST to the completions API of an endpoint and decode the reply. Raises Fault."""


class ScoreSender:
    """Sends score requests, each under a plain request of its key, which is all that the scheduler looks at."""

    def __init__(
        self, sender: Posting, asked: Mapping[str, ScoreRequest], top_k: int, model: str, vocab_size: int, tokens: int
    ) -> None:
        """`tokens` is how many may be in flight at once; a longer trace goes alone."""
        self.sender, self.asked, self.top_k, self.model = sender, asked, top_k, model
        self.vocab_size = vocab_size
        self._room = _Room(tokens)

    def requests(self) -> list[Request]:
        """One for each score request, longest first: the last to end are then short."""
        longest = sorted(self.asked.values(), key=lambda one: (-_tokens(one), one.key))
        return [Request(one.key, (), DRAWN) for one in longest]

    async def open(self) -> None:
        """Connect, and ask each server for two tokens: does it score, and as many entries as are wanted?

        Raises DistillError if not.
        """
        await self.sender.open()
        ids = [0, 1]  # any two tokens
        for endpoint in self.sender.endpoints.all:
            try:
                rows = _rows(await self.sender.complete(self._body(ids), endpoint), len(ids))
            except Fault as fault:
                raise DistillError(f"{endpoint.url}: {self._explained(fault)}") from fault
            if len(rows[-1] or {}) < self.top_k:
                raise DistillError(
                    f"{endpoint.url}: asked for {self.top_k} log-probabilities a token, the server sends "
                    f"{len(rows[-1] or {})}; lower `score.top_k`, or let it give more (vLLM: `--max-logprobs`)"
                )

    async def close(self) -> None:
        """Close the connections."""
        await self.sender.close()

    async def check(self, request: Request) -> None:
        """Raises DistillError for tokens that cannot be the model's, or do not fit its context with the one drawn."""
        one, context = self.asked[request.key], self.sender.context
        if not one.prompt_ids or not one.completion_ids or (context is not None and _tokens(one) + 1 > context):
            raise DistillError(
                f"model {self.model}: cannot score {one.key[:12]}: {len(one.prompt_ids)} prompt and "
                f"{len(one.completion_ids)} completion tokens, in a context of {context} (the server draws one more)"
            )
        if max(one.prompt_ids + one.completion_ids) >= self.vocab_size:
            raise DistillError(
                f"model {self.model}: cannot score {one.key[:12]}: it has ids of another tokenizer (this one has "
                f"{self.vocab_size} entries)"
            )

    def worst(self, request: Request) -> tuple[int, int]:
        """The trace, and the token that is drawn."""
        return _tokens(self.asked[request.key]), 1

    async def send(self, request: Request, endpoint: Endpoint) -> Completion:
        """One try. Raises Fault, also where rows and tokens differ in number: which row is whose is never guessed."""
        one = self.asked[request.key]
        async with self._room.of(_tokens(one)):
            reply = await self.sender.complete(self._body([*one.prompt_ids, *one.completion_ids]), endpoint)
        rows = prompt_rows(_rows(reply, _tokens(one))[len(one.prompt_ids) :], one.completion_ids)
        logprobs, why = as_logprobs(one.completion_ids, rows, self.top_k, self.vocab_size)
        if logprobs is None:
            raise Fault("rows", why, again=False)
        return _scored(request, logprobs)

    def _body(self, ids: Sequence[int]) -> dict[str, Any]:
        return {
            "model": self.model, "prompt": list(ids), "max_tokens": DRAWN.max_tokens, "temperature": 0.0,
            "prompt_logprobs": self.top_k,
        }  # fmt: skip

    def _explained(self, fault: Fault) -> str:
        most = re.search(r"logprobs.*?max(?:imum)? allowed: (\d+)", str(fault))
        if most is None:
            return str(fault)
        return (
            f"the server gives at most {most[1]} log-probabilities a token, `score.top_k` is {self.top_k}; start it "
            f"with `--max-logprobs {self.top_k}`, or set `score.top_k: {most[1]}`"
        )


def _rows(reply: Any, tokens: int) -> list[dict[str, Any] | None]:
    """The reply's rows, one a prompt token, the first of them empty. Raises Fault if they are not that."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    rows = choice.get("prompt_logprobs")
    if not isinstance(rows, list):
        text = (
            "the server sends no `prompt_logprobs`: given tokens are scored by vLLM only, or by engine `transformers`"
        )
        raise Fault("rows", text, again=False, ends_run=True)
    if len(rows) != tokens or not all(row is None or isinstance(row, dict) for row in rows):
        hint = "; start vLLM with `--no-enable-prefix-caching`" if len(rows) < tokens else ""
        raise Fault("rows", f"{len(rows)} rows of log-probabilities for {tokens} tokens{hint}", again=False)
    return rows


def _scored(request: Request, logprobs: TokenLogprobs) -> Completion:
    return Completion(
        key=request.key, text="", finish_reason="length", prompt_ids=None, prefill_ids=None, completion_ids=None,
        prompt_tokens=len(logprobs.tail_N), completion_tokens=1, opened=False, logprobs=logprobs,
    )  # fmt: skip


def _tokens(request: ScoreRequest) -> int:
    return len(request.prompt_ids) + len(request.completion_ids)


class _Room:
    """So many tokens may be in flight; who comes first goes first, and what is larger than the room goes alone."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._taken = tokens, 0
        self._turn, self._freed = asyncio.Lock(), asyncio.Condition()

    @asynccontextmanager
    async def of(self, tokens: int) -> AsyncIterator[None]:
        """Wait for room and hold it."""
        async with self._turn, self._freed:
            await self._freed.wait_for(lambda: not self._taken or self._taken + tokens <= self._tokens)
            self._taken += tokens
        try:
            yield
        finally:
            async with self._freed:
                self._taken -= tokens
                self._freed.notify_all()
