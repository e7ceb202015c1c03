"""Rows: the student's prompt, the teacher's tokens, and a contract that no row breaks in silence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.errors import DistillError
from distill.core.records import Message, Trace
from distill.embedded import CHAT_TEMPLATE
from students.rows import StudentText, build_rows, end_of_turn, read_student
from tests.students.made import a_trace
from tests.tiny import make_tiny_model

NO_PREFILL = """\
{%- for message in messages -%}
{{- '<|User|>' if message['role'] == 'user' else '<|Assistant|>' -}}
{%- if message['role'] == 'assistant' and '</think>' in message['content'] -%}
{{- message['content'].split('</think>')[-1] -}}
{%- else -%}{{- message['content'] -}}{%- endif -%}{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|>' -}}{%- endif -%}
"""
"""A template that strips thinking from history and opens none (Qwen2.5's kind)."""

ALWAYS_OPEN = CHAT_TEMPLATE.replace("enable_thinking is defined and not enable_thinking", "false")
"""R1's own: no no-think form."""


def plain_think_tags(folder: Path) -> None:
    """Make the think tags of a model folder ordinary text of several tokens."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "think" not in token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> StudentText:
    return read_student(tiny_model)


def decode(student: StudentText, ids: Any) -> str:
    text: str = student.tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


def one(student: StudentText, trace: Trace, **settings: Any) -> Any:
    return build_rows([trace], student, **{"target": "trace", "max_length": None, **settings}).rows[0]


def test_a_teachers_tokens_are_kept_as_drawn(student: StudentText) -> None:
    """Ids that tokenising the text again would not give, one a character: they are what is trained all the same."""
    trace = a_trace(student, 1)
    one_by_one = [
        student.tokenizer(c, add_special_tokens=False)["input_ids"] for c in f"{trace.reasoning}\0{trace.answer}"
    ]
    close = student.tokenizer.convert_tokens_to_ids("</think>")
    ids = [
        token
        for piece in one_by_one
        for token in (piece if len(piece) == 1 and decode(student, piece) != "\0" else [close])
    ]
    assert len(ids) > len(trace.completion_ids)
    trace = dataclasses.replace(trace, completion_ids=(*ids, student.end_id))

    row = one(student, trace)

    assert row.rendered == ""
    assert tuple(row.ids.tolist()) == (*trace.prompt_ids, *trace.prefill_ids, *trace.completion_ids)
    assert row.start == len(trace.prompt_ids) + len(trace.prefill_ids)
    assert decode(student, row.ids[: row.start]).endswith("<think>\n")
    assert row.ids[-1] in student.stop_ids


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"completion_ids": None}, "no ids"),
        ({"tokenizer": "another"}, "another tokenizer"),
        ({"tokenizer": None}, "another tokenizer"),
        ({"prefill_ids": ()}, "the template opens the thinking elsewhere"),
    ],
)
def test_what_is_not_the_students_own_is_rendered_from_text(
    student: StudentText, changes: dict[str, Any], why: str
) -> None:
    trace = a_trace(student, 2, **changes)
    row = one(student, trace)
    assert row.rendered == why
    assert decode(student, row.completion_ids) == f"{trace.reasoning}</think>{trace.answer}<|end|>"


def test_ids_beyond_the_vocabulary_and_foreign_stops_are_rendered(student: StudentText) -> None:
    trace = a_trace(student, 2)
    beyond = dataclasses.replace(trace, completion_ids=(student.vocab_size, *trace.completion_ids))
    unstopped = dataclasses.replace(trace, completion_ids=trace.completion_ids[:-1])
    rows = build_rows([beyond, unstopped], student, target="trace", max_length=None)
    assert dict(rows.rendered) == {"ids beyond the student's vocabulary": 1, "ends in no stop token of the student": 1}
    assert all(row.ids[-1] == student.end_id for row in rows.rows)


def test_an_import_gets_the_line_breaks_of_the_family(student: StudentText) -> None:
    trace = a_trace(student, 3, completion_ids=None, reasoning="6*7=42", answer="42")
    assert decode(student, one(student, trace).completion_ids) == "6*7=42\n</think>\n\n42<|end|>"


def test_without_reasoning_the_no_think_form_is_used(student: StudentText) -> None:
    trace = a_trace(student, 3, completion_ids=None, reasoning=None, answer="\n\n42")
    row = one(student, trace)
    assert decode(student, row.ids[: row.start]).endswith("<think>\n\n</think>\n\n")
    assert decode(student, row.completion_ids) == "42<|end|>"


def test_the_answer_only_target_drops_the_reasoning(student: StudentText) -> None:
    rows = build_rows([a_trace(student, 4)], student, target="answer", max_length=None)
    row = rows.rows[0]
    assert dict(rows.rendered) == {"answer only": 1}
    assert decode(student, row.ids).count("<think>") == decode(student, row.ids).count("</think>") == 1
    assert decode(student, row.completion_ids).startswith("The answer is")


@pytest.mark.parametrize("template", [NO_PREFILL, ALWAYS_OPEN])
@pytest.mark.parametrize("reasoning", ["6*7=42\n", None])
def test_templates_that_open_nothing_or_always(tmp_path: Path, template: str, reasoning: str | None) -> None:
    """Exactly one opening and one closing tag in prefill and completion, on whichever side of the mask they are."""
    student = read_student(make_tiny_model(tmp_path / "m", template=template, layers=1))
    trace = a_trace(student, 5, completion_ids=None, reasoning=reasoning, answer="\n\n42")
    row = one(student, trace)
    trained = decode(student, row.completion_ids)
    if template == NO_PREFILL:
        assert trained == ("<think>\n6*7=42\n</think>\n\n42<|end|>" if reasoning else "\n\n42<|end|>")
    else:
        assert trained == ("6*7=42\n</think>\n\n42<|end|>" if reasoning else "\n</think>\n\n42<|end|>")


@pytest.mark.parametrize(
    ("changes", "thinking"),
    [
        ({}, "12*3=36\n</think>"),
        ({"completion_ids": None}, "12*3=36\n</think>"),
        ({"completion_ids": None, "reasoning": None}, ""),
        ({"completion_ids": None, "finish_reason": "length", "closed": False, "answer": ""}, "12*3=36\n"),
        ({"completion_ids": None, "finish_reason": "length", "answer": ""}, "12*3=36\n</think>\n\n"),
    ],
)
@pytest.mark.parametrize("token", [True, False])
def test_where_the_answer_begins(tmp_path: Path, changes: dict[str, Any], thinking: str, token: bool) -> None:
    """Thinking with its close tag, then the answer, whether the tag is one token or several."""
    folder = make_tiny_model(tmp_path / "m", layers=1)
    if not token:
        plain_think_tags(folder)
    student = read_student(folder)
    assert (len(student.tokenizer("</think>", add_special_tokens=False)["input_ids"]) == 1) == token

    row = one(student, a_trace(student, 0, **changes))

    whole, before = decode(student, row.completion_ids), decode(student, row.ids[row.start : row.answer_at])
    assert before.rstrip("\n") == thinking.rstrip("\n")  # a token that starts inside the tag may run on into the space
    assert before + decode(student, row.ids[row.answer_at :]) == whole
    assert (row.answer_at == row.start) == (not thinking)


def test_an_empty_block_that_the_student_closes_is_no_answer(tmp_path: Path) -> None:
    student = read_student(make_tiny_model(tmp_path / "m", template=ALWAYS_OPEN, layers=1))
    row = one(student, a_trace(student, 5, completion_ids=None, reasoning=None, answer="42"))
    assert decode(student, row.ids[row.answer_at :]) == "\n\n42<|end|>"


def test_over_long_and_empty_rows_are_dropped_and_counted(student: StudentText) -> None:
    traces = [a_trace(student, n) for n in range(4)] + [
        a_trace(student, 9, completion_ids=(), reasoning=None, answer="")
    ]
    lengths = sorted(len(row.ids) for row in build_rows(traces, student, target="trace", max_length=None).rows)
    rows = build_rows(traces, student, target="trace", max_length=lengths[-1] - 1)
    assert rows.dropped == {f"over {lengths[-1] - 1:,} tokens": 1, "nothing to train on": 1}
    assert len(rows.rows) == 3
    assert rows.trained_tokens == sum(len(row.completion_ids) for row in rows.rows)


def test_a_cut_trace_carries_no_stop_token(student: StudentText) -> None:
    cut = {"finish_reason": "length", "closed": False, "answer": ""}
    drawn = a_trace(student, 3)
    drawn = dataclasses.replace(
        drawn, completion_ids=drawn.completion_ids[:5], reasoning=decode(student, drawn.completion_ids[:5]), **cut
    )
    text = a_trace(student, 3, completion_ids=None, reasoning="6*7=", **cut)
    rows = build_rows([drawn, text], student, target="trace", max_length=None)
    assert len(rows.rows) == 2
    assert not any(student.stop_ids & set(row.completion_ids.tolist()) for row in rows.rows)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"completion_ids": None, "reasoning": "a <think> b\n"}, "2 opening and 1 closing"),
        ({"completion_ids": None, "reasoning": "a </think> b\n"}, "1 opening and 2 closing"),
        ({"reasoning": "not what the ids say"}, "its reasoning is not in the trained text"),
        ({"completion_ids": None, "reasoning": None, "answer": "7</think>8"}, "without reasoning"),
        ({"closed": False}, "1 opening and 1 closing"),
    ],
)
def test_a_row_that_breaks_the_contract_ends_the_stage_or_is_dropped(
    student: StudentText, changes: dict[str, Any], fault: str
) -> None:
    stray = a_trace(student, 7, **changes)
    with pytest.raises(DistillError, match=fault):
        build_rows([stray], student, target="trace", max_length=None)
    rows = build_rows([stray, *(a_trace(student, n) for n in range(120))], student, target="trace", max_length=None)
    assert len(rows.rows) == 120
    assert sum(rows.dropped.values()) == 1
    assert fault in next(iter(rows.dropped))


@pytest.mark.parametrize(("token", "fault"), [("<|end|>", "a stop token inside"), ("<|begin|>", "more than one BOS")])
def test_a_drawn_control_token_breaks_the_contract(student: StudentText, token: str, fault: str) -> None:
    trace = a_trace(student, 7)
    ids = (student.tokenizer.convert_tokens_to_ids(token), *trace.completion_ids)
    with pytest.raises(DistillError, match=fault):
        build_rows([dataclasses.replace(trace, completion_ids=ids)], student, target="trace", max_length=None)


def test_no_row_at_all_is_an_error(student: StudentText) -> None:
    with pytest.raises(DistillError, match="there are no traces"):
        build_rows([], student, target="trace", max_length=None)


def test_the_templates_own_end_of_turn_is_found_and_counts_as_a_stop(tmp_path: Path) -> None:
    """A base whose generation config names another token than its template writes (Qwen2.5's case)."""
    folder = make_tiny_model(tmp_path / "m", layers=1, template=CHAT_TEMPLATE.replace("eos_token", "'<|User|>'"))
    student = read_student(folder)
    user = student.tokenizer.convert_tokens_to_ids("<|User|>")
    assert end_of_turn(student.tokenizer) == (user,) == student.end_ids
    assert student.stop_ids == {user, student.tokenizer.eos_token_id}
    assert one(student, a_trace(student, 1, completion_ids=None)).ids[-1] == user


def test_a_system_prompt_and_several_turns_stay_in_the_prompt(student: StudentText) -> None:
    messages = (
        Message("system", "Be short."),
        Message("user", "1+1?"),
        Message("assistant", "2"),
        Message("user", "2+2?"),
    )
    row = one(student, a_trace(student, 1, completion_ids=None, messages=messages))
    assert "Be short." in decode(student, row.ids[: row.start])
    assert decode(student, row.ids[: row.start]).count("<|Assistant|>") == 2


def test_the_same_rows_have_the_same_digest_and_no_others(student: StudentText) -> None:
    traces = [a_trace(student, n) for n in range(3)]
    digests = [
        build_rows(t, student, target="trace", max_length=None).digest()
        for t in (traces, traces, traces[::-1], traces[:2])
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert np.int32 == build_rows(traces, student, target="trace", max_length=None).rows[0].ids.dtype


def test_a_folder_without_template_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", layers=1)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DistillError, match="no chat template"):
        read_student(folder)
