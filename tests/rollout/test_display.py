"""What a person sees: three lines that fit a terminal of 80 columns, and a line now and then elsewhere."""

from __future__ import annotations

import io
import re
import sys
import time
from collections import Counter

import pytest
from rich.console import Console

from distill.core.ledger import Usage
from distill.rollout import Budget, Display, display
from distill.rollout.display import State


def state(**changes: object) -> State:
    values = {
        "done": 12_345, "wanted": 800_000, "problems_done": 1_234, "problems": 100_000, "bought": 12_000,
        "bought_tokens": 98_765_432, "spent": Usage(12_400, 4_000_000, 99_000_000, 1234.56),
        "budget": Budget(cost=20_000.0), "errors": Counter({"429": 123, "timeout": 4}), "in_flight": 256,
    }  # fmt: skip
    return State(**(values | changes))  # type: ignore[arg-type]  # one field each


def shown(one: Display, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=20, force_terminal=True, color_system=None)
    return ["".join(part.text for part in line).rstrip() for line in console.render_lines(one._text())]


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_it_never_wraps(columns: int) -> None:
    one = Display("evaluate teacher")
    one.follow(lambda: state(errors=Counter({f"kind {n}": 10**6 for n in range(30)})))
    lines = shown(one, columns)
    assert len(lines) == 4
    assert all(len(line) <= columns for line in lines)


def test_eighty_columns_hold_all_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    one, now_s = Display("sample"), time.monotonic()
    one.follow(lambda: state(bought=0, bought_tokens=0) if len(one._history) == 0 else state())
    one._text()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 58.5)
    first, second, third, fourth = shown(one, 80)
    assert "…" not in first + second + third + fourth
    assert re.fullmatch(r"sample +12,345 of 800,000 answers +1,234 of 100,000 problems +1h 04m left", first)
    assert re.fullmatch(r"205\.\d/s +1\.7M tokens/s +256 in flight +103\.0M tokens", second)
    assert third == "cost 1,234.56 of 20,000.00, ~80,003.89 in all"
    assert fourth == "errors: 429 123, timeout 4"


def test_without_a_price_tokens_are_projected() -> None:
    one = Display("sample")
    lines = one.lines(
        state(spent=Usage(10, 10, 90), done=10, wanted=100, budget=Budget(tokens=5_000), errors=Counter())
    )
    assert len(lines) == 2
    assert lines[1][-1] == "100 of 5,000 tokens, ~1,000 in all"


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "LINE_S", 0.05)
    with Display("sample") as one:
        one.follow(state)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 8
    assert all("12,345 of 800,000 answers" in line and "429 123" in line for line in lines[:-1])
    assert "12,000 answers bought" in lines[-1]
    assert capsys.readouterr().out == ""


def test_on_a_terminal_it_is_gone_at_the_end_but_for_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = _Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    with Display("sample") as one:
        one.follow(state)
        time.sleep(0.4)
    text = screen.getvalue()
    assert "256 in flight" in text
    assert text.rstrip().splitlines()[-1].endswith("errors: 429 123, timeout 4")


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_display_follows_several_calls(capsys: pytest.CaptureFixture[str]) -> None:
    with Display("sample") as one:
        for bought in (10, 5):
            here = state(bought=bought, bought_tokens=100, errors=Counter())
            one.follow(lambda here=here: here)  # type: ignore[misc]  # mypy cannot infer the default's type
    assert "15 answers bought" in capsys.readouterr().err


def test_the_first_line_has_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    one, now_s = Display("sample"), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 30.0)

    second = one.lines(state(bought=300, bought_tokens=30_000))[1]

    assert second[:2] == ["10.0/s", "1,000 tokens/s"]
