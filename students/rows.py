"""From traces to training rows, and the contract that every row keeps before any model is built.

A row is the student's own prompt ids (its template, generation prompt and prefill included), then the completion. Where
the trace's ids are the student's tokens they are the completion exactly as drawn; otherwise the row is `rendered`:
reasoning, close tag and answer are tokenised once, and it trains by cross-entropy alone until a scoring pass has made
teacher rows for those very tokens.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.records import Message, Trace
from distill.text.chat import Prompt, render_prompt
from distill.text.think import CLOSE, OPEN, thinking_length
from distill.text.turn import (
    Role,
    StudentText,
    check_template,
    completion_text,
    end_of_turn,
    read_student,
    render_completion,
)
from students.row_store import Row, RowStore

__all__ = [
    "Row", "Rows", "StudentText", "Target", "build_rows", "end_of_turn", "read_student", "render_completion",
    "violation",
]  # fmt: skip

Target = Literal["trace", "answer"]

BROKEN_SHARE = 0.01
"""Above this share of rows that break the contract it is the template or the tokenizer, not a stray trace."""

PROMPTS_KEPT = 1024
"""Rendered prompts that are kept for the next traces."""

Opener = Literal["in the prompt", "trained", "none"]
"""On which side of the mask a row's thinking opens."""


@dataclass
class Rows:
    """All rows in the order of their traces, and what became of the traces that gave none."""

    rows: RowStore = field(default_factory=RowStore)
    rendered: Counter[str] = field(default_factory=Counter)
    """Rows whose completion is not as drawn, by why."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Traces that gave no row, by why."""
    dropped_tokens: Counter[str] = field(default_factory=Counter)
    """Tokens of the rows that they would have given."""
    openers: Counter[Opener] = field(default_factory=Counter)
    """Rows by where their thinking opens: in the prompt (not trained), in the completion (trained), nowhere."""
    plain: int = 0
    """Rows that train without reasoning, in the no-think form."""

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of one epoch."""
        return int(self.rows.trained.sum())

    def digest(self) -> str:
        """Hash of every id of every row: two runs on the same rows have the same."""
        total = hashlib.sha256()
        for row in self.rows:
            total.update(f"{row.key}/{row.start}/{len(row.ids)}".encode())
            total.update(row.ids.tobytes())
        return total.hexdigest()[:32]

    def _drop(self, reason: str, tokens: int) -> None:
        self.dropped[reason] += 1
        self.dropped_tokens[reason] += tokens


def build_rows(
    traces: Iterable[Trace],
    student: StudentText,
    *,
    target: Target,
    max_length: int | None,
    plain_share: float | None = None,
    scratch: Path | None = None,
) -> Rows:
    """One row a trace, or a counted reason for none; never a cut one. The rows' ids lie in a file in folder `scratch`.

    Over-long and empty rows are dropped, and rows without reasoning above `plain_share` of all, by a hash of their key.
    A row that breaks the contract is dropped too, as the stray trace it is, unless more than `BROKEN_SHARE` of all do:
    then DistillError lists them, as it does if no row is left or the template allows none.
    """
    result, prompts = Rows(RowStore(scratch)), _Prompts(student)
    broken: list[str] = []
    seen = 0
    plain: set[str] = set()
    for seen, trace in enumerate(traces, 1):  # noqa: B007  # how many there were
        thinks = target == "trace" and trace.reasoning is not None
        prompt = prompts.of(trace.messages, thinks)
        row = _row(trace, prompt, student, thinks=thinks, target=target)
        if not len(row.completion_ids):
            result._drop("nothing to train on", len(row.ids))
        elif max_length is not None and len(row.ids) > max_length:
            result._drop(f"over {max_length:,} tokens", len(row.ids))
        elif fault := violation(row, trace, prompt, student, thinks=thinks, begins=prompts.begins(trace, thinks)):
            result._drop(fault, len(row.ids))
            broken.append(f"{trace.key[:12]}: {fault}")
        else:
            result.rows.append(row)
            if not thinks:
                plain.add(row.key)
            result.openers["none" if not thinks else "in the prompt" if prompt.opened else "trained"] += 1
    if len(broken) > BROKEN_SHARE * seen:
        raise DistillError(
            f"{len(broken):,} of {seen:,} traces give no sound row of this student ({'; '.join(broken[:5])})"
        )
    if plain_share is not None:
        _thin_out(result, plain, plain_share)
    result.plain = sum(row.key in plain for row in result.rows)
    result.rendered = Counter(row.rendered for row in result.rows if row.rendered)
    if not result.rows:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in result.dropped.items()) or "there are no traces"
        raise DistillError(f"no row to train on: {reasons}")
    return result


def _thin_out(result: Rows, plain: set[str], share: float) -> None:
    """Drop rows without reasoning until they are at most `share` of all; which ones, a hash of their key says."""
    thinking = len(result.rows) - len(plain)
    allowed = int(thinking * share / (1 - share) + 1e-9)
    gone = set(sorted(plain, key=lambda key: digest(["plain", key]))[allowed:])
    for row in result.rows:
        if row.key in gone:
            result._drop(f"over `plain_share` {share:g}", len(row.ids))
    result.rows.keep(place for place, row in enumerate(result.rows) if row.key not in gone)
    result.openers["none"] -= len(gone)


class _Prompts:
    """Rendered prompts: the traces of a problem stand together. The template is checked once for each form of
    conversation.
    """

    def __init__(self, student: StudentText) -> None:
        self.student = student
        self._known: dict[tuple[tuple[Message, ...], bool], Prompt] = {}
        self._begins: dict[tuple[tuple[Role, ...], bool], int] = {}

    def of(self, messages: tuple[Message, ...], thinking: bool) -> Prompt:
        key = (messages, thinking)
        if key not in self._known:
            form = (tuple(message.role for message in messages), thinking)
            if form not in self._begins:
                self._begins[form] = check_template(self.student.tokenizer, form[0], thinks=thinking)
            if len(self._known) == PROMPTS_KEPT:
                self._known.clear()
            self._known[key] = render_prompt(self.student.tokenizer, messages, thinking=thinking)
        return self._known[key]

    def begins(self, trace: Trace, thinking: bool) -> int:
        """How often the template itself writes the BOS in such a prompt."""
        return self._begins[tuple(message.role for message in trace.messages), thinking]


def _row(trace: Trace, prompt: Prompt, student: StudentText, *, thinks: bool, target: Target) -> Row:
    import numpy as np

    why = "answer only" if target == "answer" else _why_not_as_drawn(trace, prompt, student)
    if why or trace.completion_ids is None:
        completion: Sequence[int] = render_completion(trace, prompt, student, thinks=thinks)
    else:
        completion = trace.completion_ids
    start = len(prompt.ids)
    answer_at = start + _thinking_length(completion, student, thinks=thinks)
    return Row(trace.key, np.asarray([*prompt.ids, *completion], dtype=np.int32), start, why, answer_at)


def _thinking_length(completion: Sequence[int], student: StudentText, *, thinks: bool) -> int:
    """How many of a completion's ids are thinking, the close tag included; 0 for an answer without any."""
    if student.close_id is not None and student.close_id in completion:
        return len(completion) - list(reversed(completion)).index(student.close_id)
    if not thinks and CLOSE not in student.decode(completion):
        return 0
    return thinking_length(completion, student.decode)


def _why_not_as_drawn(trace: Trace, prompt: Prompt, student: StudentText) -> str:
    """Why a trace's ids are not the student's row; empty if they are."""
    ids = trace.completion_ids
    if not ids:
        return "no ids"
    if trace.tokenizer is None or trace.tokenizer not in student.same_tokenizers:
        return "another tokenizer"
    if max(ids) >= student.vocab_size:
        return "ids beyond the student's vocabulary"
    if trace.finish_reason == "stop" and ids[-1] not in student.stop_ids:
        return "ends in no stop token of the student"
    prefill = student.decode(trace.prefill_ids or ())
    if (OPEN in prefill and CLOSE not in prefill) != prompt.opened:
        return "the template opens the thinking elsewhere"
    return ""


def violation(
    row: Row, trace: Trace, prompt: Prompt, student: StudentText, *, thinks: bool, begins: int = 1
) -> str | None:
    """How a row breaks the contract, or None. `begins`: how often the template itself writes the BOS in such a prompt.

    The prompt is a prefix; one opening and one closing think tag (both in the no-think form's prefill, or none); the
    reasoning byte for byte in the trained text; a stop token at the end of a finished trace and nowhere before; no
    BOS but the template's; ids that the head has. A rendered completion is its text to the byte and has no special
    token but its end.
    """
    bos, ids = student.tokenizer.bos_token_id, row.ids.tolist()
    completion = ids[row.start :]
    if row.start == 0 or tuple(ids[: row.start]) != prompt.ids:
        return "the prompt is not its prefix"
    if min(ids) < 0 or max(ids) >= student.vocab_size:
        return "an id beyond the student's vocabulary"
    if bos is not None and bos not in student.stop_ids and ids.count(bos) > max(begins, 1):
        return "more than one BOS"
    if student.stop_ids.intersection(completion[:-1]):
        return "a stop token inside"
    if (trace.finish_reason == "stop") != (completion[-1] in student.stop_ids):
        return "no stop token at its end" if trace.finish_reason == "stop" else "a stop token at the end of a cut trace"
    trained = student.decode(completion)
    written = student.decode(prompt.prefill_ids) + trained
    tags = written.count(OPEN), written.count(CLOSE)
    if thinks:
        if tags != (1, int(trace.closed)):
            return f"{tags[0]} opening and {tags[1]} closing think tags"
        if trace.reasoning is not None and not _holds(trained, trace.reasoning):
            return "its reasoning is not in the trained text"
    elif tags not in ((0, 0), (1, 1)) and not (tags == (0, 1) and CLOSE in student.decode(prompt.prefill_ids)):
        return f"{tags[0]} opening and {tags[1]} closing think tags without reasoning"
    if row.rendered:
        end = len(student.end_ids) if trace.finish_reason == "stop" else 0
        text = completion_text(trace, opened=prompt.opened, prefilled=bool(prompt.prefill_ids), thinks=thinks)
        if not student.control_ids.isdisjoint(completion[: len(completion) - end]):
            return "a special token inside its text"
        whole = text + student.decode(completion[len(completion) - end :])
        if trained != whole and not _holds(student.decode(completion[: len(completion) - end]), text):
            return "the tokenizer does not give its text back"
    return None


def _holds(trained: str, text: str) -> bool:
    """Whether a text is there byte for byte, or as the tokenizer composes its accents (Qwen2's normalises to NFC)."""
    return text in trained or unicodedata.normalize("NFC", text) in trained
