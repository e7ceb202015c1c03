"""A run folder with every stage's outputs, made of drawn numbers: for the report's tests and for looking at it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from distill.core import files, rundir, tables
from distill.core.config import digest
from distill.core.records import (
    Message,
    Problem,
    Sample,
    Sampling,
    Verdict,
    VerdictValue,
    problem_id,
    sample_key,
)
from distill.evaluate import metrics, power, results, scores
from distill.evaluate.scores import Score
from distill.stages.funnel import Lengths, Step
from distill.text.habits import NAMES

HOSTILE = (
    "</div></pre><script>alert('pwned')</script><img src=x onerror=alert(1)> & \"quoted\" $x_1$ {{ 7*7 }} "
    "\u202egnp.exe\x00\x1b[31m"
)

LONG = "9" * 1_000_000
"""The end of an answer that never ends: the student's to the first problem of a hostile run."""

RATES = {"base": 0.04, "student": 0.82, "teacher": 0.89}


def make_run(
    folder: Path,
    *,
    arms: Sequence[str] = ("reasoning", "answer_only"),
    seeds: Sequence[int] = (0,),
    problems: int = 200,
    samples: int = 2,
    hostile: str = "",
    stages: Sequence[str] = ("problems", "sample", "verify", "filter", "train", "evaluate", "export"),
) -> Path:
    """Write a finished run into `folder`; `hostile` text is planted wherever a model or a person could have put it."""
    rng = random.Random(1)
    items = [_problem(number, rng, hostile) for number in range(problems)]
    index: dict[str, Any] = {"name": folder.name, "experiment": "synthetic.yaml", "arms": {}}
    for place, arm in enumerate(arms):
        for seed in seeds:
            own = f"{arm}-{seed}"
            used = {}
            for stage in stages:
                shared = stage in ("problems", "sample", "verify", "filter")
                if place > 0 and stage == "export":
                    continue
                key = digest(["shared" if shared else own, stage])
                out = folder / rundir.folder_name(stage, key)
                if rundir.finished(out, key) is None:
                    out.mkdir(parents=True)
                    _write_stage(stage, out, items, place, seed, samples, hostile)
                    rundir.finish(out, _about(stage, key, hostile))
                used[stage] = {"key": key, "folder": out.name, "seconds": 1.5}
            index["arms"].setdefault(arm, {})[str(seed)] = used
    files.write_json(folder / rundir.INDEX, index)
    settings = {
        arm: {
            "filter": {"filters": ["verdict"]},
            "train": {"epochs": 4, "loss": {"loss": ("forward_kl", "none")[place > 0]}},
            "evaluate": {"samples": samples},
            "export": {"formats": [] if place else ["gguf"]},
            "note": hostile,
        }
        for place, arm in enumerate(arms)
    }
    files.write_json(folder / "experiment.json", {"name": folder.name, "seeds": list(seeds), "arms": settings})
    return folder


def _write_stage(
    stage: str, out: Path, items: Sequence[Problem], place: int, seed: int, samples: int, hostile: str
) -> None:
    if stage == "problems":
        tables.write(out / "problems.parquet", items, Problem)
    elif stage == "sample":
        rng = random.Random(4)
        drawn = [_answer(problem, "teacher", rng, 0.8, index, hostile)[0] for problem in items for index in range(5)]
        tables.write(out / "samples.parquet", drawn, Sample)
    elif stage == "verify":
        _write_verdicts(out)
    elif stage == "filter":
        _write_funnel(out, hostile)
    elif stage == "train":
        files.write_json(out / "history.json", _history(place, seed))
    elif stage == "evaluate":
        _write_evaluation(out, items, place, seed, samples, hostile)
    elif stage == "export":
        files.write_json(out / "proof.json", _proof(items, hostile))


def _about(stage: str, key: str, hostile: str) -> dict[str, Any]:
    seconds = {"sample": 61.2, "train": 118.4, "evaluate": 74.9, "export": 21.0}.get(stage, 1.3)
    return {
        "key": key, "made_of": {"stage": stage, "version": 1, "settings": _asked() if stage == "sample" else {}},
        "inputs": {}, "summary": f"done {hostile}", "counts": _drawn(hostile) if stage == "sample" else {},
        "rows": export_rows(hostile) if stage == "export" else [],
        "settings": {}, "seed": None, "missed": None,
        "environment": {"python": "3.11.9", "system": "Linux", "packages": {"torch": "2.13.0"}},
        "started": "2026-11-20T11:00:00+00:00", "seconds": seconds,
    }  # fmt: skip


def _asked() -> dict[str, Any]:
    sample = {"policy": {"policy": "fixed", "n": 5}, "sample_temperature": 0.6, "max_tokens": 160, "system": None}
    return {"sample": sample, "teacher": {"model": "embedded-teacher", "engine": {"engine": "transformers"}}}


def _drawn(hostile: str) -> dict[str, Any]:
    return {
        "samples": 1000, "problems": 200, "tokens": 61_200, "prompt_tokens": 31_000, "cost": 0.0123, "cut": 40,
        "stopped": {"n": 200}, "alike": 150, "terms": f"Made up; its answers may train anything. {hostile}",
    }  # fmt: skip


def _problem(number: int, rng: random.Random, hostile: str) -> Problem:
    a, b = rng.randint(11, 99), rng.randint(11, 99)
    kind = ("product", "equation", "shop", "distance")[number % 4]
    messages = (Message("user", f"What is {a}*{b}? ({number}) {hostile}"),)
    return Problem(
        problem_id(messages), messages, str(a * b), "test", domain=kind, level=str(1 + number % 3), source="synthetic"
    )


def _write_verdicts(out: Path) -> None:
    values: list[VerdictValue] = ["correct"] * 760 + ["wrong"] * 190 + ["unparseable"] * 50
    verdicts = [Verdict(f"v{place}", f"s{place}", value, "") for place, value in enumerate(values)]
    tables.write(out / "verdicts.parquet", verdicts, Verdict)


def _write_funnel(out: Path, hostile: str) -> None:
    rejected: dict[str, dict[str, int]] = {
        "": {},
        "verdict": {f"wrong: {hostile}": 190, "unparseable: truncated": 50},
        "unfinished": {},
        "repetition": {"a line 9 times": 12},
        "exact_duplicates": {"same as another": 150},
        "at_most": {"over 2 a problem": 130},
    }
    left, steps, examples = 1000, [], []
    for name, reasons in rejected.items():
        left -= sum(reasons.values())
        domains = {"product": left // 2, "equation": left - left // 2}
        gone, lengths = sum(reasons.values()), Lengths(84.2, 80.0, 311, _doublings(left))
        steps.append(Step(
            name, gone, reasons, left, left // 2, {"1": left}, domains, lengths, thinking=lengths,
            examples={why: ["0"] for why in reasons}, remarks={},
        ))  # fmt: skip
        examples += [
            {"filter": name, "why": why, "key": f"{name}{n}", "question": f"What is 17*{n}? {hostile}",
             "reasoning": f"17*20=340\n{hostile}", "answer": f"Answer: {n} {hostile}", "gold": "391"}
            for why in reasons for n in range(3)
        ]  # fmt: skip
    files.write_json(out / "funnel.json", {"held_out": 0, "steps": [asdict(step) for step in steps]})
    files.write_json(out / "rejected.json", examples)
    habits = {"share": 0.3, "per_1000_characters": 0.8}
    files.write_json(out / "statistics.json", {
        "traces": left,
        "habits": dict.fromkeys(NAMES, habits),
        "thinking_by_level": {str(n): {"traces": left // 3, "mean": 40.0 * n, "median": 38} for n in (1, 2, 3)},
        "after_the_answer": {"traces": left, "mean_share": 0.12, "over_half": 0.03},
    })  # fmt: skip


def _doublings(count: int) -> tuple[int, ...]:
    """Most between 64 and 127 characters, a few longer where much is left."""
    longer = max(0, count - 400) // 3
    return (0, 0, 0, 0, 0, 0, count // 5, count - count // 5 - longer, longer * 2 // 3, longer - longer * 2 // 3)


def _history(place: int, seed: int) -> list[dict[str, float | None]]:
    rng = random.Random(place * 100 + seed)
    rows = []
    for step in range(1, 241):
        ce = 0.25 + 2.2 * 0.97**step + 0.03 * rng.random() + 0.05 * place
        looked = step / 300 if place == 0 and step % 60 == 0 else None
        row = {"step": step, "loss": ce, "ce": ce, "lr": 1e-3, "dev_accuracy": looked}
        if place == 0:
            row["kd"] = 0.06 + 1.1 * 0.965**step + 0.02 * rng.random()
        rows.append(row)
    return rows


def _write_evaluation(out: Path, items: Sequence[Problem], place: int, seed: int, samples: int, hostile: str) -> None:
    names = ("base", "student", "teacher") if place == 0 else ("student",)
    about = {
        name: {
            "name": name, "model": f"{name}-model {hostile}", "identity": digest([name, place, seed])[:32],
            "engine": "transformers", "thinking": None, "instruction": None, "system_prompt": None,
        }
        for name in names
    }  # fmt: skip
    tasks: list[dict[str, Any]] = []
    kept: dict[str, tuple[Sample, Verdict]] = {}
    lines: list[Score] = []
    for task, asked in (("problems", list(items)), ("steps", [_step_problem(n) for n in range(40)])):
        own: list[Score] = []
        for name in names:
            rate = RATES[name] - (0.55 * place if name == "student" else 0)
            rng = random.Random(f"{name}/{place}/{seed}/{task}")
            for problem in asked:
                for index in range(samples):
                    sample, verdict = _answer(problem, f"{name}-{place}-{seed}", rng, rate, index, hostile)
                    kept[sample.key] = sample, verdict
                    group = -1 if verdict.value == "unparseable" else 0 if verdict.value == "correct" else index % 2 + 1
                    own.append(scores.score(name, problem, sample, verdict, task=task, group=group))
        found = results.of_task(own, about)
        for model in found["models"]:
            model["forced"] = _forced(model) if task == "problems" and model["name"] != "base" else []
        tasks.append({
            "name": task, "problems": len(asked), "samples": samples, "sampling": {"temperature": 0.6},
            "verifier": {"verifier": "math"}, "licence": "Apache-2.0", "power": asdict(power.plan(len(asked), samples)),
            **found,
        })  # fmt: skip
        lines += own
    guard = None
    if place == 0:
        pair = next(p for p in tasks[1]["pairs"] if {p["a"], p["b"]} == {"base", "student"})
        guard = {
            "points": 2.0,
            "tasks": [{**tasks[1], "name": "recall", "difference": pair["difference"], "verdict": "no loss shown",
                       "missed": False}],
        }  # fmt: skip
    scores.write(out, lines)
    tables.write(out / "samples.parquet", (sample for sample, _ in kept.values()), Sample)
    tables.write(out / "verdicts.parquet", (verdict for _, verdict in kept.values()), Verdict)
    files.write_json(out / "results.json", {"split": "test", "tasks": tasks, "guard": guard})
    files.write_json(out / "timing.json", {})


def _forced(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Made up from the plain figures: less for tight budgets, a little more for a wait."""
    made: list[dict[str, Any]] = []
    for budget, waits, share, length in ((8, None, 0.2, 8), (32, None, 0.6, 30), (None, 1, 1.03, 80)):
        rate = {**model["rate"], **{end: min(1.0, model["rate"][end] * share) for end in ("value", "low", "high")}}
        tokens = {"value": float(length), "low": length - 2.0, "high": length + 2.0, "n": 200, "items": 200}
        made.append({
            "budget": budget, "waits": waits, "rate": rate, "thinking_tokens": tokens,
            "completion_tokens": {**tokens, "value": length + 8.0}, "extended": 17,
        })  # fmt: skip
    return made


def _step_problem(number: int) -> Problem:
    messages = (Message("user", f"{number}+{number}="),)
    return Problem(problem_id(messages), messages, str(2 * number), "test", source="steps")


THOUGHTS = (
    "17*20=340\n17*3=51\n340+51=391",
    "17*20=340\nWait, it is 17*3=51.\n340+51=391",
    "17*20=340\n17*3=51\nLet me check: 391/17=23.\nAlternatively, 23*17=391.",
)


def _answer(
    problem: Problem, model: str, rng: random.Random, rate: float, index: int, hostile: str
) -> tuple[Sample, Verdict]:
    key = sample_key(problem.messages, model, Sampling(), index)
    hard = int(problem.id[:4], 16) / 0xFFFF  # the same for every model: answers to one problem resemble each other
    long = bool(hostile) and index == 0 and model.startswith("student-0") and "(0)" in problem.messages[0].content
    value: VerdictValue = "correct" if long or 0.5 * (rng.random() + hard) < rate else "wrong"
    if value == "wrong" and rng.random() < 0.3:
        value = "unparseable"
    cut = value == "unparseable"
    thinking = 160 if cut else max(4, round(rng.gauss(62 if "base" not in model else 18, 16)))
    reasoning = f"{THOUGHTS[rng.randrange(len(THOUGHTS)) if 'base' not in model else 0]}\n{hostile}"
    said = f"Answer: \\boxed{{{problem.gold if value == 'correct' else 7}}} {hostile}"
    if long:
        said += LONG
    sample = Sample(
        key=key, problem_id=problem.id, index=index, model_id=model, model_name=model, engine="transformers",
        max_tokens=160, finish_reason="length" if cut else "stop", reasoning=reasoning,
        answer="" if cut else said,
        closed=not cut, prompt_tokens=30, completion_tokens=thinking + 8, reasoning_tokens=thinking,
    )  # fmt: skip
    return sample, Verdict(digest(key), key, value, "", extracted=None if cut else "7")


def _proof(items: Sequence[Problem], hostile: str) -> dict[str, Any]:
    rng = random.Random(9)
    entries = []
    for kind, count in (("f16", 2_790_000), ("q8_0", 1_520_000), ("q4_k_m", 990_000)):
        values = {p.id: "correct" if rng.random() < 0.81 else "wrong" for p in items}
        lines = [
            Score(kind, p, 0, p, cast(VerdictValue, value), value, "stop", 61, 69, "1", "product")
            for p, value in values.items()
        ]
        entries.append(
            {
                "name": f"student-{kind}.gguf {hostile}",
                "file": f"gguf-{kind}/student-{kind}.gguf",
                "bytes": count,
                "run": f"distill chat gguf-{kind}/student-{kind}.gguf",
                "missed": [f"values: {hostile}"] if hostile else [],
                "student_rate": asdict(metrics.pass_rate({p: ["correct"] for p in values})),
                **{
                    name: part
                    for name, part in results.summarise(lines).items()
                    if name in ("rate", "thinking_tokens", "outcomes")
                },
            }
        )
    return {"files": entries, "problems": len(items)}


def export_rows(hostile: str) -> list[dict[str, Any]]:
    """What the export stage shows of its files."""
    sizes = (("f16", "2.79 MB", "16.06"), ("q8_0", "1.52 MB", "8.75"), ("q4_k_m", "0.99 MB", "5.70"))
    return [
        {
            "file": f"student-{kind}.gguf {hostile}",
            "size": size,
            "bits a weight": bits,
            "tiers": "1 2 3",
            "log-prob diff": "4.1e-05",
            "same text": "98.6%",
            "accuracy": "81.2% [77.5, 84.4]",
            "proved": "yes",
        }
        for kind, size, bits in sizes
    ]
