"""What every verifier of final answers says before it looks at one: nothing to grade against, or nothing to grade."""

from __future__ import annotations

from distill.core.protocols import Answer, Finding
from distill.text.think import OPEN


def unanswered(answer: Answer, *, gold: bool = True) -> Finding | None:
    """`ungradable` without a gold (if one is needed); `unparseable` if the answer is cut off, unfinished or empty."""
    if gold and not (answer.gold or "").strip():
        return Finding("ungradable", "no gold answer")
    if not answer.extracted:
        if answer.finish_reason == "length":
            return Finding("unparseable", "truncated")
        if not answer.closed or OPEN in answer.text:
            return Finding("unparseable", "unfinished thinking")
    return None if answer.text.strip() else Finding("unparseable", "no answer")
