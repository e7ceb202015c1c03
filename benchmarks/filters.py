"""Filtering: a million short traces through every filter within 2 GB, and MinHash against the field's own tools.

    python -m benchmarks.filters --traces 1000000
    python -m benchmarks.filters --minhash 20000 --peer datatrove=/path/to/venv/bin/python

A peer runs in an environment of its own, named by its interpreter (`pip install datatrove spacy` or `text-dedup`), on
the same rows, one process, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._measure import measure
from distill.core import tables
from distill.core.config import digest
from distill.core.records import Message, Problem, Sample, Trace, Verdict, problem_id
from distill.report import table

LIMIT_GIB = 2e9 / 2**30
SAMPLES = 4
WORDS = [
    f"{start}{end}"
    for start in ("ba", "co", "de", "fi", "gu", "la", "me", "no", "pu", "ri", "so", "ta", "ve", "zi")
    for end in ("ndel", "rst", "lk", "ming", "tor")
]
PEERS = {"datatrove": "datatrove_peer", "text-dedup": "text_dedup_peer"}

FILTERS: list[Any] = [
    "unfinished", {"format": {"boxed": "one"}}, "repetition", {"lengths": {"max_total": 4096}}, "readability",
    {"language": "en"}, "private", {"pass_rate": {"low": 0.1}}, "verdict", "exact_duplicates", "near_duplicates",
    {"at_most": 2}, {"domains": {"caps": {"sums": 10**9}}},
]  # fmt: skip
"""Every filter but `contamination`, which is added with a signature of its own."""


def problems(count: int) -> Iterator[Problem]:
    """Short made-up questions."""
    for n in range(count):
        rng = random.Random(n)
        owner, thing, has, buys = rng.choice(WORDS), rng.choice(WORDS), rng.randrange(2, 99), rng.randrange(2, 99)
        messages = (Message("user", f"A {owner} has {has} {thing} and buys {buys} more. How many? ({n})"),)
        yield Problem(problem_id(messages), messages, str(n), "train", domain="sums", source="made", level=str(n % 5))


def thinking(rng: random.Random) -> str:
    """About sixty words of steps."""
    return "\n".join(f"So {' '.join(rng.choices(WORDS, k=6))} makes {rng.randrange(999)}." for _ in range(6))


def samples(count: int) -> Iterator[Sample]:
    """Four answers to each problem; some repeat each other, some are wrong, cut or in another language."""
    for n, problem in enumerate(problems(-(-count // SAMPLES))):
        for index in range(SAMPLES):
            rng = random.Random(n * SAMPLES + (0 if index == 3 else index))  # the last repeats the first
            odd = " 直觉" if rng.random() < 0.02 else ""
            answer = f"\\boxed{{{n if rng.random() < 0.7 else n + 1}}}"
            yield Sample(
                key=digest([problem.id, index]), problem_id=problem.id, index=index, model_id="m", model_name="m",
                engine="made", max_tokens=512, finish_reason="length" if rng.random() < 0.03 else "stop",
                reasoning=thinking(rng) + odd, answer=answer, closed=True,
            )  # fmt: skip


def verdicts(count: int) -> Iterator[Verdict]:
    """By the answer itself."""
    for n, sample in enumerate(samples(count)):
        right = sample.answer == f"\\boxed{{{n // SAMPLES}}}"
        yield Verdict(digest([sample.key]), sample.key, "correct" if right else "wrong", "same" if right else "other")


def write_inputs(folder: Path, count: int) -> None:
    """What the filter stage reads."""
    tables.write(folder / "problems" / "problems.parquet", problems(-(-count // SAMPLES)), Problem)
    tables.write(folder / "sample" / "samples.parquet", samples(count), Sample)
    tables.write(folder / "verify" / "verdicts.parquet", verdicts(count), Verdict)


STAGE = """
import json, sys
from pathlib import Path
from distill.core.stage import StageRun, Workspace
from distill.stages import filter as stage
root = Path(sys.argv[1])
config = stage.Config.model_validate(json.loads(sys.argv[2]))
(root / "out").mkdir(exist_ok=True)
inputs = {name: root / name for name in ("problems", "sample", "verify")}
if __name__ == "__main__":
    print(stage.run(StageRun("filter", root / "out", inputs, {"filter": config}, 0, Workspace(root))).summary)
"""


def million(count: int) -> dict[str, Any]:
    """The stage over `count` traces in processes of its own: seconds and the peak memory of all of them together."""
    from distill.text.contamination import build, write

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_inputs(root, count)
        write(root / "made.sig", build("made", [p.messages[0].content for p in problems(50)]))
        script = root / "stage.py"
        script.write_text(STAGE)
        section = {"filters": [{"contamination": [str(root / "made.sig")]}, *FILTERS], "control": True}
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        usage = measure([sys.executable, str(script), str(root), json.dumps(section)], env=env)
        if usage.code:
            raise SystemExit(usage.output)
        return {
            "traces": count, "filters": len(FILTERS) + 1, "wall_s": usage.wall_s, "cpu_s": usage.cpu_s,
            "peak_gib": usage.peak_gib, "limit_gib": LIMIT_GIB, "traces_per_cpu_s": count / usage.cpu_s,
            "summary": usage.output.strip().splitlines()[-1],
        }  # fmt: skip


def ours(texts: list[str], threshold: float) -> tuple[float, int]:
    """CPU seconds of our filter over these texts, and how many it keeps."""
    from distill.filters import near_duplicates
    from distill.stages import funnel

    chosen = near_duplicates.build(near_duplicates.Config(threshold=threshold, permutations=128, ngram=5))
    traces = [
        Trace(key=f"{n:08d}", problem_id=str(n), messages=(Message("user", "?"),), reasoning=text, answer="")
        for n, text in enumerate(texts)
    ]
    began_s = time.process_time()
    decisions, _ = funnel.apply(traces, [("near_duplicates", chosen)])
    return time.process_time() - began_s, sum(decision.kept for decision in decisions)


def texts_of(count: int) -> list[str]:
    """Traces of about 300 words; every fifth is another one with a few words changed."""
    made: list[str] = []
    for n in range(count):
        rng = random.Random(n)
        if n % 5 == 4:
            words = made[rng.randrange(len(made))].split(" ")
            for place in rng.sample(range(len(words)), 4):
                words[place] = rng.choice(WORDS)
            made.append(" ".join(words))
        else:
            made.append("\n".join(thinking(rng) for _ in range(5)))
    return made


def minhash(count: int, peers: dict[str, str], threshold: float = 0.8) -> list[dict[str, Any]]:
    """Our filter and each peer over the same rows: CPU seconds of the work alone, rows kept, and the ratio."""
    texts = texts_of(count)
    cpu_s, kept = ours(texts, threshold)
    rows = [{"tool": "distill", "cpu_s": cpu_s, "kept": kept, "times ours": 1.0}]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
        for peer, python in peers.items():
            script = Path(__file__).parent / "_peers" / f"{PEERS[peer]}.py"
            env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            usage = measure([python, str(script), str(path), name, str(threshold)], env=env)
            if usage.code:
                raise SystemExit(f"{peer}: {usage.output[-2000:]}")
            told = json.loads(usage.output.strip().splitlines()[-1])
            rows.append({"tool": f"{peer} {told['version']}", **told, "times ours": told["cpu_s"] / cpu_s})
    return rows


def main() -> None:
    """Run what is asked for and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, help="run the filter stage over so many traces")
    parser.add_argument("--minhash", type=int, help="compare near-duplicate filtering on so many rows")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"{', '.join(PEERS)}")
    asked = parser.parse_args()
    if asked.traces:
        told = million(asked.traces)
        table.show([{key: f"{v:.2f}" if isinstance(v, float) else v for key, v in told.items() if key != "summary"}])
        print(told["summary"])
    if asked.minhash:
        shown = minhash(asked.minhash, dict(peer.split("=", 1) for peer in asked.peer))
        table.show([{**row, "cpu_s": f"{row['cpu_s']:.2f}", "times ours": f"{row['times ours']:.2f}"} for row in shown])


if __name__ == "__main__":
    main()
