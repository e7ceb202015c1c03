"""Taking a completion apart, and counting its thinking."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distill.text.think import (
    CLOSE,
    OPEN,
    THINK,
    Dialect,
    Span,
    end_of_thinking,
    join_think,
    split_think,
    thinking_length,
    thinking_span,
)

R1_ZERO = Dialect(answer_open="<answer>", answer_close="</answer>", thinker=True)
KIMI = Dialect(open="\u25c1think\u25b7", close="\u25c1/think\u25b7", thinker=True)
MAGISTRAL = Dialect(open="[THINK]", close="[/THINK]", thinker=True)
HARMONY = Dialect(channels=True, thinker=True)
NO_TAGS = Dialect(open="", close="", thinker=False)
DIALECTS = [THINK, R1_ZERO, KIMI, MAGISTRAL, HARMONY, NO_TAGS]

FINAL = "<|start|>assistant<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
MARKS = [
    "<think>", "</think>", "<answer>", "</answer>", "[THINK]", "[/THINK]", KIMI.open, KIMI.close, "<|start|>",
    "<|end|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>", "<|constrain|>", "assistant", "analysis",
    "final", "commentary", "analysis", "assistantfinal", "\\boxed{7}", "`", "\n", " ", "x",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(MARKS), max_size=30).map("".join))

PIECES = ("17*20=340\n", CLOSE, "</", "think", ">", "so", " 391", "", "<|end|>")


def decode(ids: Sequence[int]) -> str:
    return "".join(PIECES[i] for i in ids)


@pytest.mark.parametrize(
    ("ids", "thinking"),
    [
        ((0, 0, 1, 6, 8), 3),  # one token for the tag, counted with the thinking
        ((0, 2, 3, 4, 6), 4),  # a tag of three tokens
        ((0, 1, 5, 1, 6), 4),  # the last of two tags
        ((0, 0, 5), 3),  # never closed: all of it
        ((1, 6), 1),
        ((), 0),
        ((0, 1), 2),
    ],
)
def test_thinking_length(ids: tuple[int, ...], thinking: int):
    assert thinking_length(ids, decode) == thinking


def whole_tag(text: str) -> tuple[int, ...]:
    """A vocabulary in which the end tag is one id, and every other text none."""
    return (1,) if text == CLOSE else (0, 0)


def in_parts(text: str) -> tuple[int, ...]:
    """A vocabulary in which every tag is several ids."""
    return (2, 3, 4) if text == CLOSE else (0, 0)


@pytest.mark.parametrize("encode", [whole_tag, in_parts])
@pytest.mark.parametrize(
    ("ids", "span"),
    [
        ((0, 0, 1, 6, 8), Span(0, 2, 3)),
        ((0, 2, 3, 4, 6), Span(0, 1, 4)),  # a tag of three ids
        ((0, 1, 5, 1, 6), Span(0, 3, 4)),  # the last of two tags
        ((0, 1, 2, 3, 4, 6), Span(0, 2, 5)),  # spelled by one id, then by three
        ((0, 0, 5), Span(0, 3, None)),  # never ended
        ((1, 6), Span(0, 0, 1)),
        ((), Span(0, 0, None)),
    ],
)
def test_thinking_is_found_by_id_or_by_what_ids_say(ids, span: Span, encode):
    text = decode(ids).removesuffix("<|end|>")

    assert thinking_span(ids, text, encode, decode) == span


@pytest.mark.parametrize("dialect", [THINK, R1_ZERO, KIMI, MAGISTRAL])
@given(thought=st.text(alphabet="ab \n\u25c1", max_size=12), written=st.booleans())
def test_the_ids_of_thinking_say_what_the_split_says(dialect: Dialect, thought: str, written: bool):
    text = join_think(thought, " 7", dialect)
    text = text if written else text.removeprefix(dialect.open)  # the prompt opened it

    def characters(part: Sequence[int]) -> str:  # a vocabulary of characters: no tag is one id
        return "".join(map(chr, part))

    ids = [ord(character) for character in text]
    span = thinking_span(ids, text, lambda part: tuple(map(ord, part)), characters, dialect)

    assert characters(ids[span.start : span.stop]) == thought
    assert span.end is not None
    assert characters(ids[span.stop : span.end]) == dialect.close


def test_an_id_that_holds_the_tag_s_beginning_goes_with_the_tag():
    pieces = (OPEN, "so.</", "think>", "7")

    def said(ids: Sequence[int]) -> str:
        return "".join(pieces[i] for i in ids)

    ids = (0, 1, 2, 3)
    assert thinking_span(ids, said(ids), lambda _: (9, 9), said) == Span(1, 1, 3)


@pytest.mark.parametrize("dialect", [THINK, R1_ZERO, KIMI, MAGISTRAL])
def test_a_thought_with_its_end_is_ended(dialect: Dialect):
    split = split_think(f"{dialect.open}a{end_of_thinking(dialect)}7", dialect=dialect)

    assert (split.reasoning, split.answer.strip(), split.closed) == ("a\n", "7", True)


@given(st.text(), st.text())
def test_splitting_a_joined_trace_gives_its_parts_back(thought: str, answer: str):
    assume(CLOSE not in thought + answer)

    split = split_think(join_think(thought, answer))

    assert (split.reasoning, split.answer, split.closed) == (thought, answer, True)


@pytest.mark.parametrize("finish", [True, False])
def test_a_thinker_without_a_close_tag_is_unfinished(finish: bool):
    assert split_think("\\boxed{7}", opened=finish, thinker=True) == split_think("<think>\\boxed{7}", thinker=True)
    assert split_think("\\boxed{7}", thinker=False).answer == "\\boxed{7}"
    assert not split_think("\\boxed{7}", thinker=False, opened=True).closed


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=TEXTS, opened=st.booleans(), thinker=st.booleans())
def test_a_split_loses_no_character(dialect: Dialect, text: str, opened: bool, thinker: bool):
    split = split_think(text, opened=opened, thinker=thinker, dialect=dialect)

    assert split.whole == text
    assert split.closed or split.answer == ""


@pytest.mark.parametrize("dialect", [THINK, R1_ZERO, KIMI, MAGISTRAL, HARMONY])
@given(thought=st.text(), answer=st.text())
def test_splitting_a_joined_trace_gives_its_parts_back_in_every_dialect(dialect: Dialect, thought: str, answer: str):
    marks = [dialect.close, dialect.answer_open, dialect.answer_close, "<|"] if not dialect.channels else ["<|"]
    assume(not any(mark and mark in thought + answer for mark in marks))

    split = split_think(join_think(thought, answer, dialect), dialect=dialect)

    assert (split.reasoning, split.answer, split.closed) == (thought, answer, True)


@given(TEXTS)
def test_the_last_close_tag_ends_the_thinking(text: str):
    split = split_think(text, dialect=THINK)

    assert CLOSE not in split.answer
    assert split.closed == (CLOSE in text)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>the tag `</think>` ends it</think>so 8", "the tag `</think>` ends it", "so 8"),
        ("<think>```\n<think>a</think>\n```</think>8", "```\n<think>a</think>\n```", "8"),
        # Quoted in the answer: the split is late, and nothing of the thinking is read as the answer.
        ("<think>boxed 7</think>write `</think>` and boxed 8", "boxed 7</think>write `", "` and boxed 8"),
        ("\n <think>a</think> b", "a", " b"),
        ("a <think>b</think> c", "a <think>b", " c"),
    ],
)
def test_tags_that_are_quoted(text: str, reasoning: str, answer: str):
    split = split_think(text)

    assert (split.reasoning, split.answer, split.closed) == (reasoning, answer, True)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "closed"),
    [
        ("<think>a</think> <answer>8</answer>", "a", "8", True),
        ("<think>a</think>\n\n<answer>8</answer>\n", "a", "8", True),
        ("a</think><answer>8", "a", "8", True),  # cut in the answer, or its tag forgotten
        ("<think>a</think> 8", "a", " 8", True),  # no answer tags at all
        ("<think>a</think> So <answer>8</answer> indeed", "a", "8", True),
        ("<think>a <answer>7</answer>", "a <answer>7</answer>", "", False),  # an answer inside thinking is none
        ("<answer>7</answer>", "<answer>7</answer>", "", False),
        # An answer may quote a tag; the pair of tags goes before a bare one.
        ("<think>a</think><answer>use </think> here</answer>", "a", "use </think> here", True),
        ("<think>a</think><answer>7</answer>no</think><answer>8</answer>", "a</think><answer>7</answer>no", "8", True),
        ("<think>a</think><answer>print('</answer>')</answer>", "a", "print('</answer>')", True),
    ],
)
def test_tags_around_the_answer(text: str, reasoning: str, answer: str, closed: bool):
    split = split_think(text, dialect=R1_ZERO)

    assert (split.reasoning, split.answer, split.closed) == (reasoning, answer, closed)
    assert split.whole == text


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "closed"),
    [
        (f"{ANALYSIS}a<|end|>{FINAL}8<|return|>", "a", "8", True),
        (f"{ANALYSIS}a<|end|>\n{FINAL}8", "a", "8", True),  # the stop token taken away
        (f"{FINAL[len('<|start|>assistant') :]}8<|return|>", None, "8", True),  # no analysis
        (f"{ANALYSIS}a", "a", "", False),
        (f"{ANALYSIS}a<|end|><|start|>assistant", "a", "", False),
        (
            f"{ANALYSIS}a<|end|><|start|>assistant<|channel|>commentary<|message|>now I call<|end|>{FINAL}8<|return|>",
            "a\n\nnow I call", "8", True,
        ),
        (  # a tool call is no answer
            f"{ANALYSIS}a<|end|><|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json<|message|>"
            '{"boxed": 7}<|call|>',
            'a\n\n{"boxed": 7}', "", False,
        ),
        (f"{ANALYSIS}a<|end|>{FINAL}7<|end|>{FINAL}8<|return|>", "a\n\n7", "8", True),  # the last one counts
        (f"{ANALYSIS}a<|end|>{FINAL}7<|end|><|start|>assistant{ANALYSIS}no,", "a\n\n7\n\nno,", "", False),
        (f"{ANALYSIS}a <|channel|>final<|message|> b<|end|>{FINAL}8", "a <|channel|>final<|message|> b", "8", True),
        ("analysisWe add.assistantfinal8", "We add.", "8", True),  # special tokens dropped by the server
        ("analysisWe add", "We add", "", False),
        ("boxed 8", "boxed 8", "", False),  # a declared thinker's text without any mark
    ],
)  # fmt: skip
def test_harmony(text: str, reasoning: str | None, answer: str, closed: bool):
    split = split_think(text, dialect=HARMONY)

    assert (split.reasoning, split.answer, split.closed) == (reasoning, answer, closed)
    assert split.whole == text


def test_a_prompt_that_opened_the_analysis_channel():
    split = split_think(f"a<|end|>{FINAL}8<|return|>", opened=True, dialect=HARMONY)

    assert (split.reasoning, split.answer, split.closed) == ("a", "8", True)


def test_reasoning_in_a_field_leaves_the_answer_as_it_is():
    assert split_think("write </think>: 8", apart="a").answer == "write </think>: 8"
    assert split_think("8", apart="a", dialect=HARMONY).reasoning == "a"
    assert not split_think("", apart="only thinking came").closed
    assert split_think("8", apart="a").whole == "a8"


def test_what_a_dialect_declares_goes_before_what_the_caller_says():
    assert not split_think("8", thinker=False, dialect=Dialect(thinker=True)).closed
    assert split_think("8", thinker=True, dialect=Dialect(thinker=False)).answer == "8"
    assert split_think("a</think>8", dialect=NO_TAGS).answer == "a</think>8"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("piece", [*MARKS, "</think> ", "</think> <answer>", "x<|constrain|>", ANALYSIS, FINAL, "<"])
def test_a_megabyte_of_tags_takes_linear_time(dialect: Dialect, piece: str):
    short, long = (piece * (n // len(piece)) for n in (100_000, 1_000_000))
    started_s = time.process_time()
    split_think(short, dialect=dialect)
    first_s = time.process_time() - started_s
    assert split_think(long, dialect=dialect).whole == long
    taken_s = time.process_time() - started_s - first_s

    assert taken_s < 0.2 + 30 * first_s  # ten times the length; a hundred times the time were it quadratic
    assert taken_s < 5
