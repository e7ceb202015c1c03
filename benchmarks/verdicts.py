"""Agreement of the verifiers with labels that others gave, beside math-verify alone on the same rows.

    python -m benchmarks.verdicts

Grades every labelled data set of the shared data (`DISTILL_SHARED_DATA`) and writes the table into
docs/verify.md between its two markers. A data set is one function that returns its rows; a set that is not
there is named and left out. Where a label is doubtful by its own origin, the rows are left out by the function, and the
docstring says so.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core import plugins
from distill.core.protocols import Answer, Verifier
from distill.sources import humaneval
from distill.text.readings import read
from distill.text.think import split_think

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DISTILL_SHARED_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "verify.md"
BEGIN, END = "<!-- verdicts: written by benchmarks/verdicts.py -->", "<!-- end of verdicts -->"


@dataclass(frozen=True)
class Labelled:
    """One answer and whether it is right, by its label."""

    answer: Answer
    right: bool


@dataclass(frozen=True)
class DataSet:
    """A labelled data set, the verifier that grades it (a name, or one for each row's group) and what to know of it."""

    rows: Callable[[], list[Labelled]]
    verifier: str = "math"
    math_verify: bool = True
    note: str = ""

    @property
    def name(self) -> str:
        """The folder's name, which is the function's."""
        return self.rows.__name__


@dataclass(frozen=True)
class Agreement:
    """How verdicts and labels agree."""

    rows: int
    accepts: int
    rejects: int

    @classmethod
    def of(cls, said: Sequence[bool], rows: Sequence[Labelled]) -> Agreement:
        """Count false accepts and false rejects."""
        pairs = list(zip(said, rows, strict=True))
        accepts = sum(correct and not row.right for correct, row in pairs)
        return cls(len(rows), accepts, sum(row.right and not correct for correct, row in pairs))

    @property
    def agreed(self) -> str:
        """`164/170`."""
        return f"{self.rows - self.accepts - self.rejects}/{self.rows}"


# Data sets


def read_rows(folder: str, file: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file of the shared data, compressed or not."""
    path = DATA / folder / file
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def gsm8k_model_solutions() -> list[Labelled]:
    """Solutions by four models; the answer is the line `A: 18`."""
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    return [
        Labelled(
            Answer(row[model]["solution"], row["ground_truth"].rpartition("A:")[2].strip()), row[model]["is_correct"]
        )
        for row in read_rows("gsm8k_model_solutions", "example_model_solutions.jsonl.gz")
        for model in models
    ]


def qwen_math_samples() -> list[Labelled]:
    """Eight responses each to problems of MATH."""
    return [
        Labelled(Answer(response, row["gt"]), bool(score))
        for row in read_rows("qwen_math_samples", "math_cot.jsonl.gz")
        for response, score in zip(row["response"], row["score"], strict=True)
    ]


def r1_math500_traces() -> list[Labelled]:
    """Whole responses with thinking; the label was read by hand. The answer is read after `</think>` only."""
    rows = []
    for row in read_rows("r1_math500_traces", "traces.jsonl.gz"):
        split = split_think(row["full_response"])
        rows.append(Labelled(Answer(split.answer, row["ground_truth"], closed=split.closed), row["checked_correct"]))
    return rows


def verdict_pairs() -> list[Labelled]:
    """Pairs from the test suites of four graders; those whose label a reviewer doubts (`label_note`) are left out."""
    return [
        Labelled(Answer("" if row["pred"] is None else str(row["pred"]), str(row["gold"])), bool(row["expected"]))
        for row in read_rows("verdict_pairs", "pairs.jsonl")
        if not row.get("label_note")
    ]


def nemo_math_outputs() -> list[Labelled]:
    """Outputs of a weak base model; the label wants a bare value in the last box."""
    return [
        Labelled(Answer(row["generation"], row["expected_answer"]), str(row["symbolic_correct"]) == "True")
        for row in read_rows("nemo_math_outputs", "outputs.jsonl.gz")
    ]


def mr_gsm8k_wrong() -> list[Labelled]:
    """Solutions whose answers people marked as wrong; rows whose gold is no number are left out."""
    return [
        Labelled(Answer("\n".join(row["model_output_steps"]), str(row["ground_truth_answer"])), False)
        for row in read_rows("mr_gsm8k_wrong", "mr_gsm8k.jsonl.gz")
        if row["question_type"] in ("original", "reversed")
        and row["model_output_answer_correctness"] == "wrong"
        and read(str(row["ground_truth_answer"])).number is not None
    ]


def mmlu_pro_outputs() -> list[Labelled]:
    """Chains of thought that state one option once, `answer is (X)`, and those that name none at all.

    Left out are hedges ("(A) or (C)"), answers stated twice, and replies with a letter in passing: their label is what
    a pattern of the origin took.
    """
    rows = []
    for row in read_rows("mmlu_pro_outputs", "outputs.jsonl.gz"):
        text = row.get("generated_text") or row["model_outputs"]
        stated = set(re.findall(r"answer is \(([A-J])\)", text))
        after = text.rpartition("answer is (")[2]
        once = len(stated) == 1 and not re.search(r"(?i)\b(?:answer|option)\b|^[A-J]\)(?: (?:or|and) |,? ?\()", after)
        none = row["pred"] is None and not re.search(r"\([A-J]\)|\b[A-J][.:]|[`*][A-J]\b", text)
        if once or none:
            rows.append(Labelled(Answer(text, row["answer"]), once and stated == {row["answer"]}))
    return rows


def cruxeval_outputs() -> list[Labelled]:
    """Predicted outputs of Python functions; the label was made by running them."""
    return [
        Labelled(Answer(said, row["output"], extracted=True), bool(right))
        for row in read_rows("cruxeval_outputs", "codellama7b_output_prediction.jsonl.gz")
        for said, right in zip(row["generations"], row["scored"], strict=True)
    ]


def humaneval_codegen_samples() -> list[Labelled]:
    """Programs of a 16B model; the label was made by running the tests. Rows that miss a module are left out."""
    tasks = {row["task_id"]: row for row in read_rows("humaneval", "HumanEval.jsonl.gz")}
    rows = []
    for row in read_rows("humaneval_codegen_samples", "samples.jsonl.gz"):
        tests = humaneval.to_problem(tasks[row["task_id"]] | {"prompt": row["prompt"]}, "").tests
        rows += [
            Labelled(Answer(program, None, tests, extracted=True), label == "passed")
            for program, label in zip(row["samples"], row["verdicts"], strict=True)
            if "ModuleNotFoundError" not in label
        ]
    return rows


SETS = [
    DataSet(gsm8k_model_solutions),
    DataSet(qwen_math_samples),
    DataSet(r1_math500_traces),
    DataSet(verdict_pairs, note="rows with a doubted label left out"),
    DataSet(nemo_math_outputs, note="accepted by the box policy: a unit or an equation in the box, or no box"),
    DataSet(mr_gsm8k_wrong, note="all wrong, by people"),
    DataSet(mmlu_pro_outputs, verifier="choice", math_verify=False, note="one option stated once, or none"),
    DataSet(cruxeval_outputs, verifier="literal", math_verify=False),
    DataSet(humaneval_codegen_samples, verifier="code", math_verify=False, note="rows that miss a module left out"),
]


# The table


def ours(data: DataSet, rows: Sequence[Labelled]) -> list[bool]:
    """Which answers the set's verifier, with its default settings, finds correct."""
    module = plugins.load("distill.verifiers", data.verifier)
    verifier: Verifier = module.build(module.Config())
    try:
        return [finding.value == "correct" for finding in verifier.grade([row.answer for row in rows])]
    finally:
        verifier.close()


def theirs(rows: Sequence[Labelled]) -> list[bool]:
    """What math-verify says with its default settings, given gold and answer as they are or as formulas."""
    from math_verify import parse, verify

    return [
        any(
            verify(parse(gold), parse(text))
            for gold in _as_formula(row.answer.gold or "")
            for text in _as_formula(row.answer.text)
        )
        for row in rows
    ]


def _as_formula(text: str) -> list[str]:
    """A text as it is and, where it is one short line without any delimiter, between dollar signs."""
    marked = any(mark in text for mark in ("$", r"\boxed", r"\(", r"\[", "\n")) or len(text) > 100
    return [text] if marked else [f"${text}$", text]


def table(sets: Sequence[DataSet]) -> str:
    """The Markdown table, one line a data set."""
    lines = [
        "| data with labels | verifier | agrees | false accepts | false rejects | math-verify alone | false accepts "
        "| false rejects | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for data in sets:
        if not (DATA / data.name).exists():
            print(f"verdicts: {data.name} is not there, left out", file=sys.stderr)
            continue
        rows = data.rows()
        mine = Agreement.of(ours(data, rows), rows)
        peer = Agreement.of(theirs(rows), rows) if data.math_verify else None
        beside = f"{peer.agreed} | {peer.accepts} | {peer.rejects}" if peer else "- | - | -"
        said = f"{mine.agreed} | {mine.accepts} | {mine.rejects}"
        lines.append(f"| {data.name} | {data.verifier} | {said} | {beside} | {data.note} |")
    return "\n".join(lines)


def put(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page. Raises ValueError where they are missing."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Grade everything, print the table, write it into the page."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    text = table(SETS)
    print(text)
    put(PAGE, text)


if __name__ == "__main__":
    main()
