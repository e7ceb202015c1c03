"""From traces to training rows, and the contract that every row keeps before any model is built.

A row is the student's own prompt ids (its template, generation prompt and prefill included), then the completion. Where
the trace's ids are the student's tokens they are the completion exactly as drawn; otherwise the row is `rendered`:
reasoning, close tag and answer are tokenised once, and it trains by cross-entropy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from distill.core.errors import DistillError
from distill.core.fingerprint import tokenizer_fingerprint
from distill.core.records import Message, Trace
from distill.text.chat import Prompt, load_tokenizer, render_prompt, stop_ids
from distill.text.think import CLOSE, OPEN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Target = Literal["trace", "answer"]

BROKEN_SHARE = 0.01
"""Above this share of rows that break the contract it is the template or the tokenizer, not a stray trace."""


@dataclass(frozen=True)
class Row:
    """One training row. `ids` int32: prompt, prefill, completion; trained from `start` on.

    `rendered` says why the completion is not as drawn; empty: it is, and teacher rows of `key` belong to it.
    """

    key: str
    ids: NDArray[np.int32]
    start: int
    rendered: str = ""

    @property
    def completion_ids(self) -> NDArray[np.int32]:
        """The trained tokens."""
        return self.ids[self.start :]


@dataclass
class Rows:
    """All rows in the order of their traces, and what became of the traces that gave none."""

    rows: list[Row] = field(default_factory=list)
    rendered: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of one epoch."""
        return sum(len(row.ids) - row.start for row in self.rows)

    def digest(self) -> str:
        """Hash of every id of every row: two runs on the same rows have the same."""
        total = hashlib.sha256()
        for row in self.rows:
            total.update(f"{row.key}/{row.start}/{len(row.ids)}".encode())
            total.update(row.ids.tobytes())
        return total.hexdigest()[:32]


@dataclass(frozen=True)
class StudentText:
    """What is known of the student's text side without its weights."""

    tokenizer: Any
    fingerprint: str | None
    vocab_size: int
    """Rows of the output head, padding included."""
    context: int | None
    end_id: int
    """What ends an assistant's turn in the template."""
    stop_ids: frozenset[int]
    """All ids that end an answer; the trained student's generation config lists them."""
    generation_config: dict[str, Any]


def read_student(folder: Path) -> StudentText:
    """Read tokenizer, template and configuration of a model folder. Raises DistillError where one is missing."""
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template:
        raise DistillError(f"{folder}: the tokenizer has no chat template, so no training row can be made")
    config = _json(folder / "config.json")
    if config is None:
        raise DistillError(f"{folder}: no config.json there, so it is no model that can be trained")
    text_config = config.get("text_config", config)
    generation = _json(folder / "generation_config.json") or {
        name: text_config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in text_config
    }
    stops = stop_ids(tokenizer, SimpleNamespace(**generation))
    end_id = end_of_turn(tokenizer)
    return StudentText(
        tokenizer=tokenizer,
        fingerprint=tokenizer_fingerprint(folder),
        vocab_size=int(text_config.get("vocab_size") or len(tokenizer)),
        context=text_config.get("max_position_embeddings"),
        end_id=end_id,
        stop_ids=frozenset(stops | {end_id}),
        generation_config=generation,
    )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def end_of_turn(tokenizer: Any) -> int:
    """The special token that the template writes after an assistant's answer, else the tokenizer's EOS.

    Raises DistillError if there is neither: nothing could teach the student to stop.
    """
    mark = "distill-mark"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    _, found, after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(mark)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    if ids and ids[0] in special:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise DistillError(f"{tokenizer.name_or_path}: neither template nor tokenizer has a token that ends a turn")
    return int(tokenizer.eos_token_id)


def build_rows(traces: Sequence[Trace], student: StudentText, *, target: Target, max_length: int | None) -> Rows:
    """One row a trace, or a counted reason for none; never a cut one.

    Over-long and empty rows are dropped. A row that breaks the contract is dropped too, as the stray trace it is,
    unless more than `BROKEN_SHARE` of all do: then DistillError lists them, as it does if no row is left.
    """
    result, prompts = Rows(), _Prompts(student.tokenizer)
    broken: list[str] = []
    for trace in traces:
        thinks = target == "trace" and trace.reasoning is not None
        prompt = prompts.of(trace.messages, thinks)
        row = _row(trace, prompt, student, thinks=thinks, target=target)
        if not len(row.completion_ids):
            result.dropped["nothing to train on"] += 1
        elif max_length is not None and len(row.ids) > max_length:
            result.dropped[f"over {max_length:,} tokens"] += 1
        elif (fault := violation(row, trace, prompt, student, thinks=thinks)) is not None:
            result.dropped[fault] += 1
            broken.append(f"{trace.key[:12]}: {fault}")
        else:
            result.rows.append(row)
            if row.rendered:
                result.rendered[row.rendered] += 1
    if len(broken) > BROKEN_SHARE * len(traces):
        raise DistillError(
            f"{len(broken):,} of {len(traces):,} traces give no sound row of this student ({'; '.join(broken[:5])})"
        )
    if not result.rows:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in result.dropped.items()) or "there are no traces"
        raise DistillError(f"no row to train on: {reasons}")
    return result


class _Prompts:
    """Rendered prompts: several traces share a problem."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[tuple[tuple[Message, ...], bool], Prompt] = {}

    def of(self, messages: tuple[Message, ...], thinking: bool) -> Prompt:
        key = (messages, thinking)
        if key not in self._known:
            self._known[key] = render_prompt(self.tokenizer, messages, thinking=thinking)
        return self._known[key]


def _row(trace: Trace, prompt: Prompt, student: StudentText, *, thinks: bool, target: Target) -> Row:
    import numpy as np

    why = "answer only" if target == "answer" else _why_not_as_drawn(trace, prompt, student)
    if why or trace.completion_ids is None:
        completion: Sequence[int] = render_completion(trace, prompt, student, thinks=thinks)
    else:
        completion = trace.completion_ids
    return Row(trace.key, np.asarray([*prompt.ids, *completion], dtype=np.int32), len(prompt.ids), why)


def _why_not_as_drawn(trace: Trace, prompt: Prompt, student: StudentText) -> str:
    """Why a trace's ids are not the student's row; empty if they are."""
    ids = trace.completion_ids
    if not ids:
        return "no ids"
    if trace.tokenizer is None or trace.tokenizer != student.fingerprint:
        return "another tokenizer"
    if max(ids) >= student.vocab_size:
        return "ids beyond the student's vocabulary"
    if trace.finish_reason == "stop" and ids[-1] not in student.stop_ids:
        return "ends in no stop token of the student"
    prefill = _decode(student.tokenizer, trace.prefill_ids or ())
    if (OPEN in prefill and CLOSE not in prefill) != prompt.opened:
        return "the template opens the thinking elsewhere"
    return ""


def render_completion(trace: Trace, prompt: Prompt, student: StudentText, *, thinks: bool) -> list[int]:
    """The completion's ids made from text, once. A finished one ends with the end-of-turn token, a cut one as it is.

    Where a text brings no line breaks of its own around the close tag, it gets those of the R1 and Qwen3 families.
    """
    if thinks and trace.reasoning is not None:
        text = trace.reasoning if prompt.opened else f"{OPEN}\n{trace.reasoning}"
        if trace.closed:
            before = "" if trace.reasoning.endswith("\n") or not trace.reasoning else "\n"
            after = "" if trace.answer[:1].isspace() else "\n\n"
            text = f"{text}{before}{CLOSE}{after}{trace.answer}"
    elif prompt.opened:  # a template without a no-think form: the student closes the block at once
        text = f"\n{CLOSE}\n\n{trace.answer.lstrip()}"
    else:
        text = trace.answer.lstrip() if prompt.prefill_ids else trace.answer
    ids: list[int] = student.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return [*ids, student.end_id] if ids and trace.finish_reason == "stop" else ids


def violation(row: Row, trace: Trace, prompt: Prompt, student: StudentText, *, thinks: bool) -> str | None:
    """How a row breaks the contract, or None.

    The prompt is a prefix; one opening and one closing think tag (both in the no-think form's prefill, or none); the
    reasoning byte for byte in the trained text; a stop token at the end of a finished trace and nowhere before; one BOS
    at most; ids that the head has.
    """
    tokenizer, ids = student.tokenizer, row.ids.tolist()
    completion = ids[row.start :]
    if row.start == 0 or tuple(ids[: row.start]) != prompt.ids:
        return "the prompt is not its prefix"
    if min(ids) < 0 or max(ids) >= student.vocab_size:
        return "an id beyond the student's vocabulary"
    bos = tokenizer.bos_token_id
    if bos is not None and bos not in student.stop_ids and ids.count(bos) > 1:
        return "more than one BOS"
    if student.stop_ids.intersection(completion[:-1]):
        return "a stop token inside"
    if (trace.finish_reason == "stop") != (completion[-1] in student.stop_ids):
        return "no stop token at its end" if trace.finish_reason == "stop" else "a stop token at the end of a cut trace"
    trained = _decode(tokenizer, completion)
    written = _decode(tokenizer, prompt.prefill_ids) + trained
    tags = written.count(OPEN), written.count(CLOSE)
    if thinks:
        if tags != (1, int(trace.closed)):
            return f"{tags[0]} opening and {tags[1]} closing think tags"
        if trace.reasoning is not None and trace.reasoning not in trained:
            return "its reasoning is not in the trained text"
    elif tags not in ((0, 0), (1, 1)):
        return f"{tags[0]} opening and {tags[1]} closing think tags without reasoning"
    return None


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
