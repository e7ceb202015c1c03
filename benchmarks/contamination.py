"""Contamination by kind, on real benchmark questions, their rewrites, and training problems that are neither.

    python -m benchmarks.contamination

Reads the labelled data ($DISTILL_SHARED_DATA, or ../shared/data beside the repository) and prints a Markdown table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.core import jsonl
from distill.report import table
from distill.text.contamination import Index, build

SETS = (
    ("gsm8k", "rephrased"), ("mmlu", "rephrased"), ("humaneval", "rephrased_python"), ("humaneval", "translated_js"),
    ("mmlu", "chinese"),
)  # fmt: skip
"""Files of rewrites, and the column that holds them."""


def main() -> None:
    """Print originals found, rewrites found by kind, and unrelated problems flagged."""
    data = Path(os.environ.get("DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    shown = []
    for name, column in SETS:
        pairs = rows(data / "decontamination" / f"{name}_rephrased.jsonl.gz")
        asked = Index([build(name, [row["original"] for row in pairs])])
        rewrites = [row[column].partition("\nAnswer:")[0] for row in pairs if row.get(column)]
        originals = kinds(asked, [row["original"] for row in pairs])
        found = kinds(asked, rewrites)
        shown.append(
            {
                "benchmark": name, "originals found": f"{originals['exact']}/{len(pairs)}", "rewrites": column,
                "by runs of words": found["exact"] + found["runs"] + found["fuzzy"],
                "as rewrites": found["rewritten"], "of": len(rewrites),
            }
        )  # fmt: skip
    print(table.markdown(shown))
    test = Index([build("gsm8k-test", [row["question"] for row in rows(data / "gsm8k" / "test.jsonl.gz")])])
    train = [row["question"] for row in rows(data / "gsm8k" / "train.jsonl.gz")]
    flagged = kinds(test, train)
    wrong = sum(count for how, count in flagged.items() if how != "numbers")
    share = f"{100 * wrong / len(train):.2f}%"
    print(f"GSM8K train against GSM8K test: {wrong} of {len(train):,} flagged ({share}), {dict(flagged)}")
    aime = Index([build("aime", [row["problem"] for row in rows(data / "math_train" / "aime_1983_2023.jsonl.gz")])])
    maths = [row["problem"] for row in rows(data / "math_train" / "math_train.jsonl.gz")]
    print(f"MATH train against AIME 1983-2023, which it quotes: {dict(kinds(aime, maths))} of {len(maths):,}")


def rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file."""
    return [row for _, row in jsonl.read(path)]


def kinds(index: Index, texts: Sequence[str]) -> Counter[str]:
    """How many texts match, by kind."""
    return Counter(match.how for text in texts if (match := index.match(text)) is not None)


if __name__ == "__main__":
    main()
