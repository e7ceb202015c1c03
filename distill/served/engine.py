"""An engine that buys its answers: a sender of single tries, under a scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from distill.core.errors import DistillError
from distill.core.protocols import Completion, Keep, Meter, Request, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity
from distill.core.stage import say
from distill.served.endpoints import Endpoints
from distill.served.limiter import Limiter
from distill.served.scheduler import Rules, Scheduler, Sender
from distill.served.scoring import ScoreSender
from distill.served.settings import ServedSettings
from distill.served.wire import Remarks


class RemarkingSender(Sender, Protocol):
    """A sender that counts what was odd about replies."""

    remarks: Remarks


class ServedEngine:
    """Answers over a network. `meter`, where it is set, is asked before every try."""

    def __init__(
        self,
        name: str,
        identity: ModelIdentity,
        settings: ServedSettings,
        sender: RemarkingSender,
        endpoints: Endpoints,
        scorer: Callable[[Mapping[str, ScoreRequest], int], ScoreSender] | None = None,
    ) -> None:
        """`scorer` makes what sends score requests (by key) for so many entries a token. None: it cannot score."""
        self.name, self.identity, self.sender, self._scorer = name, identity, sender, scorer
        self.meter: Meter | None = None
        self.longest: Sequence[Request] = ()
        """The longest prompts of what will be asked for: refused before anything is sent if they do not fit."""
        self.window = settings.concurrency  # rollout hands out no more than this before answers are on disk
        limiter = Limiter(settings.requests_per_minute, settings.tokens_per_minute)
        self._with: tuple[Endpoints, Limiter, Rules] = (
            endpoints,
            limiter,
            Rules(settings.concurrency, settings.retries),
        )
        self._scheduler = Scheduler(sender, *self._with)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request as each ends; see `Engine.generate`. Requests are pulled as they are sent.

        A list is checked against the context before anything is sent; of other iterables `longest` is, and then each
        request as it comes.
        """
        try:
            yield from self._scheduler.run(requests, self.meter, self.longest)
        finally:
            for text in self.sender.remarks.told():
                say(f"{self.name:<9} {text}")

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        """Yield the largest log-probabilities of given tokens; see `Engine.score`. Few servers give them.

        Traces that fail for good are left out, and DistillError tells of them once all others are there.
        """
        if self._scorer is None or self.identity.vocab_size is None:
            why = " without its `tokenizer`" if self._scorer is not None else ""
            raise DistillError(
                f"model {self.identity.name}: engine `{self.name}` cannot score given tokens{why}; record "
                "log-probabilities while sampling (`top_logprobs`), or score with engine `transformers`"
            )
        if keep.draws or keep.temperatures:
            raise DistillError(
                f"engine `{self.name}` sees only the largest log-probabilities of a token: no draws, and no loss "
                "temperature but 1; score with engine `transformers`"
            )
        return self._score(self._scorer({request.key: request for request in requests}, keep.top_k))

    def _score(self, sender: ScoreSender) -> Iterator[tuple[str, TokenLogprobs]]:
        failed, first = 0, ""
        for completion in Scheduler(sender, *self._with).run(sender.requests()):
            if completion.logprobs is not None:
                yield completion.key, completion.logprobs
                continue
            failed, first = failed + 1, first or str(completion.error)
        if failed:
            raise DistillError(
                f"model {self.identity.name}: {failed:,} traces could not be scored ({first}); the others are kept. "
                "Run the same command again: only these are asked for"
            )

    def close(self) -> None:
        """Nothing is held between runs."""
