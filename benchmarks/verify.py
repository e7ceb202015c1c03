"""Speed of the `math` verifier beside math-verify alone, on the same rows, in the same run.

    python -m benchmarks.verify

Short numeric answers: the last line of every GSM8K solution, in this process, on one core. Whole responses: the MATH
samples of Qwen2.5-Math and of R1 and the outputs of a weak base model, on two cores (two workers here, two processes
there). Rows come from the shared data (`DISTILL_SHARED_DATA`). Each side is warmed up before; ours forgets
before each turn what it has cached; three turns in alternation; rates are medians. Prints a Markdown table.
"""

from __future__ import annotations

import gzip
import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from distill.core.protocols import Answer
from distill.text.readings import clean, read
from distill.text.shapes import shape
from distill.text.think import split_think
from distill.verifiers.math import Config, MathVerifier, build

TURNS = 3
CORES = 2
Row = tuple[str, str, bool]
"""(gold, final part of a response, whether it is right)."""


def rows(*path: str) -> list[dict[str, Any]]:
    """The rows of a gzip-compressed JSON Lines file of the shared data."""
    root = Path(os.environ.get("DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    with gzip.open(root.joinpath(*path), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def short_rows() -> list[Row]:
    """The last line of each GSM8K solution."""
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    return [
        (row["ground_truth"].rpartition("A:")[2].strip(), lines[-1], bool(row[model]["is_correct"]))
        for row in rows("gsm8k_model_solutions", "example_model_solutions.jsonl.gz")
        for model in models
        if (lines := row[model]["solution"].strip().splitlines())
    ]


def whole_rows() -> list[Row]:
    """Whole responses to MATH problems, thinking aside."""
    found = [
        (row["gt"], response, bool(score))
        for row in rows("qwen_math_samples", "math_cot.jsonl.gz")
        for response, score in zip(row["response"], row["score"], strict=True)
    ]
    for row in rows("r1_math500_traces", "traces.jsonl.gz"):
        found.append((row["ground_truth"], split_think(row["full_response"]).answer, row["checked_correct"]))
    for row in rows("nemo_math_outputs", "outputs.jsonl.gz"):
        found.append((row["expected_answer"], row["generation"], str(row["symbolic_correct"]) == "True"))
    return found


def forget(verifier: MathVerifier) -> None:
    """Empty our caches: those of this process, and those of the workers, by starting new ones."""
    for cache in (read, clean, shape):
        cache.cache_clear()
    verifier.close()
    verifier.grade([Answer(r"\boxed{x+1}", "1+x"), Answer(r"\boxed{x+2}", "2+x")])


def ours(verifier: MathVerifier, data: Sequence[Row]) -> list[bool]:
    """Our verdicts."""
    return [f.value == "correct" for f in verifier.grade([Answer(text, gold) for gold, text, _ in data])]


def theirs(row: Row) -> bool:
    """math-verify's verdict, as its documentation uses it: the gold as a formula, default settings."""
    gold, text, _ = row
    return bool(verify(parse(f"${gold}$"), parse(text)))


def main() -> None:
    """Print the table."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    print("| rows | cores | distill, rows a second | math-verify, rows a second | ratio | agree with labels |")
    print("| --- | --- | --- | --- | --- | --- |")
    short, whole = short_rows(), whole_rows()
    verifier = build(Config(workers=CORES))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        _show(
            "short numeric answers", 1, short, lambda: forget(verifier), lambda: ours(verifier, short),
            lambda: [theirs(row) for row in short],
        )  # fmt: skip
        list(pool.map(theirs, whole[: 4 * CORES]))  # its processes start here
        _show(
            "whole responses to MATH problems", CORES, whole, lambda: forget(verifier),
            lambda: ours(verifier, whole), lambda: list(pool.map(theirs, whole, chunksize=8)),
        )  # fmt: skip
    verifier.close()


def _show(
    name: str,
    cores: int,
    data: Sequence[Row],
    prepare: Callable[[], None],
    run: Callable[[], list[bool]],
    other: Callable[[], list[bool]],
) -> None:
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    said: dict[str, list[bool]] = {}
    for _ in range(TURNS):
        prepare()
        for who, call in (("ours", run), ("theirs", other)):
            began_s = time.perf_counter()
            said[who] = call()
            times[who].append(time.perf_counter() - began_s)
    rate, base = (len(data) / statistics.median(times[who]) for who in ("ours", "theirs"))
    right = {who: sum(a == label for a, (_, _, label) in zip(said[who], data, strict=True)) for who in said}
    worse = sum(
        a != label and b == label for a, b, (_, _, label) in zip(said["ours"], said["theirs"], data, strict=True)
    )
    agree = f"{right['ours']} and {right['theirs']} of {len(data)}; {worse} worse"
    print(f"| {name} | {cores} | {rate:,.0f} | {base:,.0f} | {rate / base:.1f} | {agree} |", flush=True)


if __name__ == "__main__":
    main()
