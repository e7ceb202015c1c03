"""What an engine drew, as it is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distill.core.protocols import Completion
from distill.core.records import ModelIdentity, ReasoningKind, Sample, Sampling
from distill.rollout import Prefix, Prices
from distill.rollout.answers import as_sample
from distill.text.think import THINK, Dialect
from tests.rollout.world import asks

DRAWN = Completion("k", "a</think>b", "stop", (1,), (2,), (3, 4, 5), 10, 3, True, reasoning_tokens=2)
SILENT = Dialect(close="", thinker=False, kind="hidden")


def sample(completion: Completion, dialect: Dialect = THINK, **changes: Any) -> Sample:
    (ask,) = asks(1, 1)
    return as_sample(
        completion,
        replace(ask, **changes),
        0,
        Sampling(),
        ModelIdentity("m", "m"),
        "e",
        dialect=dialect,
        prices=Prices(1e6, 2e6),
    )


def test_tags_fields_and_silence_give_the_same_record() -> None:
    inline = sample(DRAWN)
    apart = sample(replace(DRAWN, text="b", reasoning="a"))
    assert (inline.reasoning, inline.answer, inline.closed, inline.reasoning_kind) == ("a", "b", True, "full")
    assert replace(apart, text=inline.text) == inline
    hidden = sample(replace(DRAWN, text="b", opened=False, reasoning_tokens=40), SILENT)
    assert (hidden.reasoning, hidden.answer, hidden.reasoning_kind) == (None, "b", "hidden")
    assert hidden.reasoning_tokens == 40  # billed, though nobody sees them


@pytest.mark.parametrize(
    ("reasoning", "declared", "kind"),
    [("a", None, "full"), ("a", "summary", "summary"), (None, "summary", "hidden"), (None, None, "none")],
)
def test_what_reasoning_is_worth(reasoning: str | None, declared: ReasoningKind | None, kind: ReasoningKind) -> None:
    completion = replace(DRAWN, text="b", opened=False, reasoning=reasoning, reasoning_kind=declared)
    assert sample(completion).reasoning_kind == kind


def test_reasoning_that_never_ended_leaves_no_answer() -> None:
    for cut in (
        sample(replace(DRAWN, text="a", finish_reason="length")),
        sample(replace(DRAWN, text="", reasoning="a", finish_reason="length")),
        sample(replace(DRAWN, text="", opened=False, finish_reason="length"), SILENT),
    ):
        assert (cut.closed, cut.answer) == (False, "")


def test_its_cost_is_that_of_its_own_tokens() -> None:
    assert sample(DRAWN).cost == pytest.approx(10 + 2 * 3)


def test_a_hinted_answer_keeps_its_own_ids_and_not_the_prompts() -> None:
    hinted = sample(DRAWN, rationalised=True)
    assert (hinted.rationalised, hinted.prompt_ids, hinted.completion_ids) == (True, None, (3, 4, 5))


def test_an_answer_that_continues_a_prefix_is_kept_whole_and_costs_what_was_drawn() -> None:
    ended = Prefix((6, 7), "a</think>", thinking=2)
    drawn = replace(DRAWN, text="b", prefill_ids=(9,), prompt_tokens=2, reasoning_tokens=3)  # all, as it has no end

    whole = sample(drawn, prefix=ended)

    assert (whole.reasoning, whole.answer, whole.closed, whole.text) == ("a", "b", True, "a</think>b")
    assert whole.completion_ids == (6, 7, 3, 4, 5)
    assert (whole.prompt_tokens, whole.completion_tokens, whole.reasoning_tokens) == (2, 5, 2)
    assert whole.cost == pytest.approx((2 + 2) + 2 * 3), "the prefix is read, not written"
    assert whole.settings == Sampling().keyed() | {"prefix_tokens": 2}
    billed = replace(drawn, prompt_tokens=4)  # a server counts the prefix as prompt
    assert sample(billed, prefix=ended) == whole


@pytest.mark.parametrize(
    ("text", "counted", "thinking"),
    [("a</think>b", 2, 4), ("still thinking", 3, 5), ("a</think>b", None, None)],
)
def test_thinking_that_goes_on_after_a_prefix_is_counted_with_it(
    text: str, counted: int | None, thinking: int | None
) -> None:
    drawn = replace(DRAWN, text=text, reasoning_tokens=counted)
    assert sample(drawn, prefix=Prefix((6, 7), "x", thinking=None)).reasoning_tokens == thinking


def test_an_end_of_thinking_after_an_ended_prefix_makes_all_before_it_thinking() -> None:
    again = sample(DRAWN, prefix=Prefix((6, 7), "x</think>", thinking=2))
    assert (again.reasoning, again.answer, again.reasoning_tokens) == ("x</think>a", "b", 4)
