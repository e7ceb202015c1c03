"""An engine that buys its answers: a sender of single tries, under a scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from distill.core.errors import DistillError
from distill.core.protocols import Completion, Meter, Request, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity
from distill.core.stage import say
from distill.served.endpoints import Endpoints
from distill.served.limiter import Limiter
from distill.served.scheduler import Rules, Scheduler, Sender
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
    ) -> None:
        self.name, self.identity, self.sender = name, identity, sender
        self.meter: Meter | None = None
        self.longest: Sequence[Request] = ()
        """The longest prompts of what will be asked for: refused before anything is sent if they do not fit."""
        self.window = settings.concurrency  # rollout hands out no more than this before answers are on disk
        limiter = Limiter(settings.requests_per_minute, settings.tokens_per_minute)
        self._scheduler = Scheduler(sender, endpoints, limiter, Rules(settings.concurrency, settings.retries))

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

    def score(self, requests: Iterable[ScoreRequest], top_k: int) -> Iterator[tuple[str, TokenLogprobs]]:
        """Refused: few servers give log-probabilities of given ids, and none in a way that others share."""
        del requests, top_k
        raise DistillError(
            f"model {self.identity.name}: engine `{self.name}` cannot score given tokens; record log-probabilities "
            "while sampling (`top_logprobs`), or score with engine `transformers`"
        )

    def close(self) -> None:
        """Nothing is held between runs."""
