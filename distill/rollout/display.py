"""What a person sees while answers are bought: a few lines on a terminal, elsewhere one line every half minute."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from distill.core.ledger import Usage
from distill.core.progress import duration, short
from distill.rollout.meter import Budget

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

LINE_S = 30.0
"""Between two lines where there is no terminal."""
RATE_S = 60.0
"""Rates are those of the last minute."""


@dataclass(frozen=True)
class State:
    """Where a call of `fill` stands."""

    done: int
    wanted: int
    problems_done: int
    problems: int
    bought: int
    bought_tokens: int
    """Completion tokens bought in this call."""
    spent: Usage
    budget: Budget
    errors: Counter[str]
    in_flight: int


class Display:
    """Follows one call of `fill` after the other: `with Display("sample") as display: fill(..., display=display)`."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._state: Callable[[], State] | None = None
        self._history: deque[tuple[float, int, int]] = deque()
        self._began_s = time.monotonic()
        self._before = (0, 0)  # answers and tokens bought by earlier calls
        self._spent_before = Usage()  # on the answers of earlier calls
        self._live: Live | None = None
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Display:
        self._began_s = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(get_renderable=self._text, console=console, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._ticker = threading.Thread(target=self._tick, name="display", daemon=True)
            self._ticker.start()
        return self

    def follow(self, state: Callable[[], State]) -> None:
        """Show this call's state from now on. Called once a pass; the same call's state may be given again."""
        if self._state is not None and self._state != state:
            before = self._state()
            self._before = (self._before[0] + before.bought, self._before[1] + before.bought_tokens)
            self._spent_before += before.spent
            self._history.clear()
        self._state = state

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._state is not None:
            self._say_end(self._state())

    def _tick(self) -> None:
        while not self._ended.wait(LINE_S):
            if self._state is not None:
                state = self._state()
                print(", ".join(part for line in self.lines(state) for part in line), file=sys.stderr, flush=True)

    def _say_end(self, state: State) -> None:
        answers, tokens = self._before[0] + state.bought, self._before[1] + state.bought_tokens
        if not answers and not state.errors:
            return
        elapsed_s = max(time.monotonic() - self._began_s, 1e-9)
        parts = [
            f"{self.label:<9} {answers:,} answers bought",
            f"{answers / elapsed_s:,.1f}/s",
            f"{tokens / elapsed_s:,.0f} tokens/s",
            f"{elapsed_s:,.1f} s",
            _tokens(state, self._spent_before),
            *_cost(state, self._spent_before),
            *_errors(state),
        ]
        print(", ".join(parts), file=sys.stderr, flush=True)

    def _text(self) -> Text:
        from rich.text import Text

        state = self._state() if self._state is not None else None
        lines = self.lines(state) if state is not None else [[f"{self.label:<9} looking through the ledger"]]
        return Text("\n".join("  ".join(parts) for parts in lines), no_wrap=True, overflow="ellipsis")

    def lines(self, state: State) -> list[list[str]]:
        """Up to four lines of parts: what is done, at what rate, what it costs, and what went wrong."""
        answers_s, tokens_s = self._rates(state)
        left = state.wanted - state.done
        first = [
            f"{self.label:<9} {state.done:,} of {state.wanted:,} answers",
            f"{state.problems_done:,} of {state.problems:,} problems",
        ]
        if answers_s and left:
            first.append(f"{duration(left / answers_s)} left")
        second = [f"{answers_s:,.1f}/s", f"{short(tokens_s)} tokens/s"]
        if state.in_flight:
            second.append(f"{state.in_flight:,} in flight")
        before = self._spent_before
        lines = [first, [*second, _tokens(state, before)], _cost(state, before), _errors(state)]
        return [line for line in lines if line]

    def _rates(self, state: State) -> tuple[float, float]:
        """Answers and tokens a second."""
        now_s = time.monotonic()
        if not self._history:
            self._history.append((self._began_s, 0, 0))
        self._history.append((now_s, state.bought, state.bought_tokens))
        while len(self._history) > 2 and self._history[0][0] < now_s - RATE_S:
            self._history.popleft()
        then_s, bought, tokens = self._history[0]
        elapsed_s = now_s - then_s
        if elapsed_s < 0.1:
            return 0.0, 0.0
        return (state.bought - bought) / elapsed_s, (state.bought_tokens - tokens) / elapsed_s


def _tokens(state: State, before: Usage) -> str:
    limit, projected = state.budget.tokens, _projected(state.spent.tokens, state)
    text = short(before.tokens + state.spent.tokens)
    text += f"{'' if limit is None else f' of {short(before.tokens + limit)}'} tokens"
    if projected is None or state.spent.cost is not None:
        return text
    return f"{text}, ~{short(before.tokens + projected)} in all"


def _cost(state: State, before: Usage) -> list[str]:
    if state.spent.cost is None:
        return []
    earlier, limit, projected = before.cost or 0.0, state.budget.cost, _projected(state.spent.cost, state)
    text = f"cost {earlier + state.spent.cost:,.2f}{'' if limit is None else f' of {earlier + limit:,.2f}'}"
    return [text if projected is None else f"{text}, ~{earlier + projected:,.2f} in all"]


def _projected(amount: float, state: State) -> float | None:
    """What all of it will come to at this rate."""
    return amount * state.wanted / state.done if 0 < state.done < state.wanted else None


def _errors(state: State) -> list[str]:
    if not state.errors:
        return []
    return ["errors: " + ", ".join(f"{kind} {count:,}" for kind, count in state.errors.most_common())]
