"""How far something has come: one line on stderr that fits its terminal; without a terminal only a line at the end."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text


class Progress:
    """Count, rate and time left: `with Progress("sample", 6000, "samples") as bar: bar.advance(1)`.

    Extra amounts (`tokens=`) are shown as a rate per second. Without a terminal only the closing line is printed.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._skipped = 0
        self.amounts: dict[str, float] = {}
        self._live: Live | None = None
        self._notes: tuple[str, ...] = ()

    def __enter__(self) -> Progress:
        self._start_s = time.monotonic()
        if sys.stderr.isatty() and self.total > 0:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(get_renderable=self._text, console=console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def advance(self, n: int = 1, **amounts: float) -> None:
        """Count `n` more units done, and `amounts` (tokens, bytes) beside them."""
        self.done += n
        for name, amount in amounts.items():
            self.amounts[name] = self.amounts.get(name, 0.0) + amount

    def skip(self, n: int) -> None:
        """Count `n` units as done before: they are in no rate and no forecast."""
        self.done += n
        self._skipped += n

    def note(self, *texts: str) -> None:
        """Show short texts (the loss, say), on a line below."""
        self._notes = texts

    def _text(self) -> Text:
        from rich.text import Text

        lines = ["  ".join(self._parts()), *([" " * 10 + "  ".join(self._notes)] if self._notes else [])]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    def _parts(self) -> list[str]:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        here = self.done - self._skipped
        parts = [f"{self.label:<9} {self.done:,} of {self.total:,} {self.unit}"]
        if here:
            parts.append(f"{here / elapsed_s:,.1f}/s" if here >= elapsed_s else f"{elapsed_s / here:,.1f} s each")
        parts += [f"{short(amount / elapsed_s)} {name}/s" for name, amount in self.amounts.items()]
        if here and self.done < self.total and self._live is not None:
            parts.append(f"{duration(elapsed_s / here * (self.total - self.done))} left")
        return parts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self.done:
            elapsed_s = time.monotonic() - self._start_s
            print("  ".join([*self._parts(), *self._notes, f"{elapsed_s:,.1f} s"]), file=sys.stderr, flush=True)


def short(amount: float) -> str:
    """An amount in a few characters: `6,543`, `12.3k`, `4.5M`, `6.7G`."""
    for unit, size, least in (("G", 1e9, 1e9), ("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if amount >= least:
            return f"{amount / size:,.1f}{unit}"
    return f"{amount:,.0f}"


def duration(seconds: float) -> str:
    """A time in a few characters: `9s`, `4m 05s`, `1h 04m`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
