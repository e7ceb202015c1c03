"""Numbers as people read them, the same on the page, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.evaluate.metrics import Difference, Mean, Rate
from distill.report.plots import Point


def percent(measured: Mean | Rate | Mapping[str, Any], digits: int = 1) -> str:
    """A rate with its interval: `83.2% [79.7, 86.2]`. A mapping has `value`, `low` and `high`."""
    value, low, high = _three(measured)
    if value is None:
        return "-"
    text = f"{100 * value:.{digits}f}%"
    if low is None or high is None:
        return text
    return f"{text} [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def bare_percent(value: float | None, digits: int = 1) -> str:
    """A share without its interval: `83.2%`."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def points(value: float | None) -> str:
    """A difference of rates in points: `+4.2`, `−1.0`; `−0.0` is a little below 0: the sign of an interval's end."""
    if value is None:
        return "-"
    return f"{100 * value + 0.0:+.1f}".replace("-", "−")


def estimate(measured: Mapping[str, Any], digits: int = 0) -> str:
    """A number with its interval: `512 [480, 551]`."""
    value, low, high = _three(measured)
    if value is None:
        return "-"
    text = f"{value:,.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"


def money(value: float | None) -> str:
    """An amount in the currency of the prices that were given; small ones keep two significant digits."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def size(count: int | None) -> str:
    """Bytes for people, in decimal units."""
    if count is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Wall-clock time: `4.2 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(counts: Mapping[str, int]) -> str:
    """`5,460 correct, 540 wrong`."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def point(
    label: str, measured: Mean | Rate | Difference | Mapping[str, Any], series: int, form: str = "{:.1f}%"
) -> Point:
    """A rate or a difference of rates as a point of a plot, in percent or points. Raises ValueError if it has none."""
    value, low, high = (None if x is None else 100 * x for x in _three(measured))
    if value is None:
        raise ValueError(f"{label}: nothing was measured")
    return Point(label, value, low, high, form.format(value).replace("-", "−"), series)


def _three(measured: Any) -> tuple[float | None, float | None, float | None]:
    if isinstance(measured, Mapping):
        return measured.get("value"), measured.get("low"), measured.get("high")
    return measured.value, measured.low, measured.high
