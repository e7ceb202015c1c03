"""The data contract of a training: what its rows are, on one page, with samples. Reads no weights.

`distill train --dry-run` prints it; every training begins with it and keeps it as `contract.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.fingerprint import tokenizer_fingerprint
from distill.core.models import cached_text, resolve_text
from distill.core.records import Trace
from distill.core.stage import Report
from distill.text.pairing import Verdict, compare
from distill.text.turn import StudentText
from students import settings
from students.rows import Row, Rows, Target, build_rows
from students.text_side import TextSide, prepare, teacher_folder

if TYPE_CHECKING:
    from rich.text import Text

PROMPTS_COMPARED = 200
"""Prompts that are rendered once more as a program that uses the student would render them."""

SAMPLES = 3

SHOWN_TOKENS = 160
"""A longer stretch of a sample is shown by its beginning and its end."""


@dataclass(frozen=True)
class Contract:
    """Rows that keep the contract, what they were made with, and what they were made of."""

    side: TextSide
    rows: Rows
    traces: Iterable[Trace]
    """What the rows were made of, in the same order; read anew by every look at it."""
    target: Target
    longest: int | None
    verdict: Verdict | None
    """Of teacher and student; None where the teacher's tokenizer is not known here."""


def make(
    traces: Iterable[Trace], student: settings.Config, base: Path, teacher: Any, out: Path, *, target: Target,
    max_length: int | None, plain_share: float | None,
) -> Contract:  # fmt: skip
    """Rows of these traces for the student of folder `base`; `teacher` is its section or None, `out` a scratch folder.

    Raises DistillError where the contract cannot be kept.
    """
    side = prepare(student, base, teacher, out, thinks=target == "trace")
    context = side.text.context
    if max_length is not None and context is not None and max_length > context:
        raise DistillError(f"`train.max_length` is {max_length}, but the student's context ends at {context}")
    longest = max_length if max_length is not None else context
    rows = build_rows(traces, side.text, target=target, max_length=longest, plain_share=plain_share, scratch=out.parent)
    folder = teacher_folder(teacher, fetch=False)
    verdict = None if folder is None else compare(folder, side.folder)
    contract = Contract(side, rows, traces, target, longest, verdict)
    prove_prompts(contract)
    return contract


def refusal(sections: Mapping[str, Any], *, fetch: bool) -> str | None:
    """Why a loss of these sections can match nothing, told from the two tokenizers before anything is sampled.

    None where it can, where no loss asks for it, and where the teacher's tokenizer is not known here. `fetch` allows to
    get the tokenizer files of a model on the Hub; without it only what is on this machine is looked at.
    """
    train, student, teacher = (sections.get(name) for name in ("train", "student", "teacher"))
    if train is None or student is None or teacher is None or train.matching is None:
        return None
    theirs = teacher_folder(teacher, fetch=fetch)
    base = (resolve_text if fetch else cached_text)(student.model, student.revision)
    if theirs is None or base is None or tokenizer_fingerprint(theirs) == tokenizer_fingerprint(base):
        return None
    with TemporaryDirectory() as scratch:
        side = prepare(student, base, teacher, Path(scratch) / "text", thinks=train.target == "trace")
        verdict = compare(theirs, side.folder)
    if verdict.kl_possible:
        return None
    return (
        f"`train.loss` cannot match {teacher.model} and {student.model}: {verdict}; set `loss: none`, or take a "
        "student with the teacher's tokenizer"
    )


def prove_prompts(contract: Contract) -> int:
    """Compare trained prompts with what a program that knows nothing of us feeds the student; how many were compared.

    Rows in the student's usual form only: those without reasoning beside others are asked for by an argument. Raises
    DistillError where one differs: the student would be used on prompts that it never saw.
    """
    tokenizer, compared = contract.side.text.tokenizer, 0
    left = iter(contract.rows.rows)
    row = next(left, None)
    for trace in contract.traces:
        if row is None:
            break
        if trace.key != row.key:  # gave no row
            continue
        this, row = row, next(left, None)
        if contract.target == "trace" and trace.reasoning is None:
            continue
        turns = [{"role": message.role, "content": message.content} for message in trace.messages]
        usual = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        bos = tokenizer.bos_token_id
        while bos is not None and usual[:2] == [bos, bos]:
            usual = usual[1:]  # a doubled BOS is dropped in rows and by runtimes that look
        if list(usual) != this.ids[: this.start].tolist():
            raise DistillError(
                f"{tokenizer.name_or_path}: the prompt of trace {this.key[:12]} is {this.start:,} ids in its row, but "
                f"the template gives {len(usual):,} others when it is used; give another with `student.template`"
            )
        compared += 1
        if compared == PROMPTS_COMPARED:
            break
    return compared


def page(contract: Contract, *, kl_rows: int | None) -> Report:
    """The report: a table of what and how much, and the same as data. `kl_rows`: rows with teacher logits; None: no
    loss asks for any."""
    rows, text, side = contract.rows, contract.side.text, contract.side
    lengths = sorted(rows.rows.lengths.tolist())
    tokens, trained = sum(lengths), rows.trained_tokens
    thinking = sum(max(0, row.answer_at - row.start) for row in rows.rows)
    dropped, lost = sum(rows.dropped.values()), sum(rows.dropped_tokens.values())
    rendered = sum(rows.rendered.values())
    unfinished = sum(int(row.ids[-1]) not in text.stop_ids for row in rows.rows)
    data: dict[str, Any] = {
        "traces": len(rows.rows) + dropped,
        "rows": len(rows.rows),
        "rows_digest": rows.digest(),
        "dropped": dict(rows.dropped),
        "dropped_tokens": dict(rows.dropped_tokens),
        "rendered": dict(rows.rendered),
        "rendered_share": rendered / len(rows.rows),
        "without_reasoning": rows.plain,
        "thinking_opens": dict(+rows.openers),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": trained / tokens,
        "reasoning_tokens": thinking,
        "answer_tokens": trained - thinking,
        "length": {"shortest": lengths[0], "median": _quantile(lengths, 0.5), "p95": _quantile(lengths, 0.95),
                   "longest": lengths[-1], "limit": contract.longest},
        "template": side.template,
        "think_tokens": side.think_tokens,
        "new_tokens": sorted(side.new_tokens),
        "end_of_turn": list(text.end_ids),
        "unfinished": unfinished,
        "stop_ids": sorted(text.stop_ids),
        "bos": text.tokenizer.bos_token_id if text.tokenizer.bos_token_id in rows.rows[0].ids else None,
        "kl_rows": kl_rows,
        "pairing": None if contract.verdict is None else str(contract.verdict),
    }  # fmt: skip
    spans = data["length"]
    limit = "no limit" if contract.longest is None else f"limit {contract.longest:,}"
    table = {
        "rows": f"{len(rows.rows):,} of {data['traces']:,} traces",
        "dropped": f"{dropped:,} ({lost:,} tokens){_reasons(rows.dropped)}",
        "rendered from text": f"{rendered:,} ({_percent(rendered, len(rows.rows))}){_reasons(rows.rendered)}",
        "without reasoning": f"{rows.plain:,} ({_percent(rows.plain, len(rows.rows))} of the rows)",
        "thinking opens": ", ".join(f"{where} {n:,}" for where, n in (+rows.openers).items()),
        "length in tokens": f"{spans['shortest']:,} to {spans['longest']:,}, median {spans['median']:,}, "
        f"95% up to {spans['p95']:,}; {limit}, none is cut",
        "trained tokens": f"{trained:,} of {tokens:,} ({_percent(trained, tokens)}): reasoning {thinking:,}, "
        f"answer {trained - thinking:,}",
        "template": side.template,
        "think tags": side.think_tokens,
        "end of turn": f"{_named(text, text.end_ids)}, trained in {len(rows.rows) - unfinished:,} rows, {unfinished:,} "
        f"are unfinished; the generation config lists {_named(text, sorted(text.stop_ids))}",
        "begin of text": "none"
        if data["bos"] is None
        else f"{_named(text, [data['bos']])}, as the template writes it and nowhere else",
        "teacher logits": "not asked for" if kl_rows is None else f"{kl_rows:,} of {len(rows.rows):,} rows",
        "teacher and student": "the teacher's tokenizer is not known here"
        if contract.verdict is None
        else str(contract.verdict),
    }
    summary = (
        f"{len(rows.rows):,} rows keep the contract: prompt a prefix, tags once, reasoning byte for byte, end of turn "
        "trained, no doubled BOS, nothing cut"
    )
    return Report(summary, [{"data contract": what, "": value} for what, value in table.items()], data)


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _reasons(counts: Mapping[str, int]) -> str:
    return "".join(f"; {why}: {n:,}" for why, n in sorted(counts.items(), key=lambda item: -item[1]))


def _named(text: StudentText, ids: Sequence[int]) -> str:
    return " ".join(f"{text.tokenizer.convert_ids_to_tokens(token)} ({token})" for token in ids)


@dataclass(frozen=True)
class Sample:
    """A row as text, in the parts that the mask and the reader tell apart."""

    key: str
    about: str
    prompt: str
    thinking: str
    answer: str
    end: str


def samples(contract: Contract) -> list[Sample]:
    """Three rows to look at: one of each kind that there is (drawn, rendered, without reasoning), then any."""
    text = contract.side.text
    kinds: dict[tuple[bool, bool], tuple[str, Row]] = {}
    for row in contract.rows.rows:
        kind, rank = (bool(row.rendered), row.answer_at > row.start), digest(["sample", row.key])
        if kind not in kinds or rank < kinds[kind][0]:
            kinds[kind] = rank, row
    chosen = {row.key: row for _, row in sorted(kinds.values(), key=lambda ranked: ranked[0])}
    for row in nsmallest(SAMPLES, contract.rows.rows, key=lambda row: digest(["sample", row.key])):
        chosen.setdefault(row.key, row)
    return [_sample(row, text) for row in list(chosen.values())[:SAMPLES]]


def _sample(row: Row, text: StudentText) -> Sample:
    ids = row.ids.tolist()
    end = len(ids) - len(text.end_ids) if ids[-1] in text.stop_ids else len(ids)
    middle = min(max(row.answer_at, row.start), end)
    how = f"rendered: {row.rendered}" if row.rendered else "as drawn"
    return Sample(
        row.key, f"{len(ids):,} tokens, {len(ids) - row.start:,} trained, {how}",
        *(_shortened(text, part) for part in (ids[: row.start], ids[row.start : middle], ids[middle:end], ids[end:])),
    )  # fmt: skip


def _shortened(text: StudentText, ids: Sequence[int]) -> str:
    """The text of some tokens, long ones without their middle. Control characters are spelled out: it is a model's."""
    if len(ids) > SHOWN_TOKENS:
        half = SHOWN_TOKENS // 2
        whole = f"{text.decode(ids[:half])} [... {len(ids) - 2 * half:,} tokens ...] {text.decode(ids[-half:])}"
    else:
        whole = text.decode(ids)
    return "".join(c if c in "\n\t" or c.isprintable() or c == "\u3000" else f"\\u{ord(c):04x}" for c in whole)


def show(shown: Sequence[Sample]) -> None:
    """Print samples to stdout: what is trained in colour, or between marks where there is no colour."""
    import click
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    how = "cyan reasoning, green answer, magenta end" if coloured else "between >>> and <<<"
    click.echo(f"{len(shown)} samples; what is trained: {how}\n")
    for sample in shown:
        with console.capture() as captured:
            console.print(_coloured(sample) if coloured else _marked(sample), markup=False)
        click.echo(captured.get(), nl=False, color=coloured)


def _coloured(sample: Sample) -> Text:
    from rich.text import Text

    return Text.assemble(
        (f"{sample.key[:12]}  {sample.about}\n", "bold"), (sample.prompt, "dim"), (sample.thinking, "cyan"),
        (sample.answer, "green"), (sample.end, "bold magenta"), "\n",
    )  # fmt: skip


def _marked(sample: Sample) -> str:
    trained = f"{sample.thinking}{sample.answer}{sample.end}"
    return f"{sample.key[:12]}  {sample.about}\n{sample.prompt}>>>{trained}<<<\n"
