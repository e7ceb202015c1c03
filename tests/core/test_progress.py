"""Progress fits its terminal, and without one says nothing but its last line."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest
from rich.console import Console

from distill.core.progress import Progress, duration, short


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_fits_eighty_columns_with_all_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Screen())
    with Progress("evaluate", 800_000, "answers") as bar:
        bar.advance(12_345, tokens=98_765_432)
        began_s = bar._start_s
        monkeypatch.setattr(time, "monotonic", lambda: began_s + 60.0)
        console = Console(file=io.StringIO(), width=80, height=20)
        (line,) = ["".join(part.text for part in line).rstrip() for line in console.render_lines(bar._text())]
        monkeypatch.undo()
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert line == "evaluate  12,345 of 800,000 answers  205.8/s  1.6M tokens/s  1h 03m left"


@pytest.mark.parametrize("columns", [80, 30])
def test_it_never_wraps(columns: int) -> None:
    bar = Progress("a long label that goes on", 10**9, "answers")
    bar._start_s = time.monotonic() - 5
    bar.note("loss 1.234 and more")
    bar.advance(10**8, tokens=1e12, bytes=1e13)
    console = Console(file=io.StringIO(), width=columns, height=20)
    lines = console.render_lines(bar._text())
    assert len(lines) == 2  # what is noted has a line of its own
    assert all(sum(len(part.text) for part in line) <= columns for line in lines)


def test_what_was_done_before_is_in_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Screen())
    with Progress("train", 100, "steps") as bar:
        bar.skip(50)
        bar.advance(10)
        began_s = bar._start_s
        monkeypatch.setattr(time, "monotonic", lambda: began_s + 20.0)
        assert bar._parts() == ["train     60 of 100 steps", "2.0 s each", "1m 20s left"]
        monkeypatch.undo()
        monkeypatch.setattr(sys, "stderr", io.StringIO())


def test_without_a_terminal_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("verify", 3, "answers") as bar:
        bar.advance(2)
        bar.advance(tokens=7)
    assert re.fullmatch(r"verify    3 of 3 answers  [\d,.]+/s  [\d,.kMG]+ tokens/s  0\.\d s\n", capsys.readouterr().err)


def test_amounts_and_times_in_a_few_characters() -> None:
    assert [short(n) for n in (0, 999, 9_999, 12_345, 1_234_567, 8e9)] == ["0", "999", "9,999", "12.3k", "1.2M", "8.0G"]
    assert [duration(s) for s in (0.4, 59, 245, 3840, 400_000)] == ["0s", "59s", "4m 05s", "1h 04m", "111h 06m"]
