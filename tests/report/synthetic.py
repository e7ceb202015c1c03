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
from distill.evaluate import metrics, scores
from distill.evaluate.scores import Score
from distill.evaluate.stage import ratios, summarise
from distill.stages.funnel import Lengths, Step

HOSTILE = "</div></pre><script>alert('pwned')</script><img src=x onerror=alert(1)> & \"quoted\" $x_1$ {{ 7*7 }}"

RATES = {"base": 0.04, "student": 0.82, "teacher": 0.89}


def make_run(
    folder: Path,
    *,
    arms: Sequence[str] = ("reasoning", "answer_only"),
    seeds: Sequence[int] = (0,),
    problems: int = 200,
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
                    _write_stage(stage, out, items, place, seed, hostile)
                    rundir.finish(out, _about(stage, key, hostile))
                used[stage] = {"key": key, "folder": out.name, "seconds": 1.5}
            index["arms"].setdefault(arm, {})[str(seed)] = used
    files.write_json(folder / rundir.INDEX, index)
    settings = {
        arm: {"train": {"epochs": 4, "loss": {"loss": "none" if place else "forward_kl"}}, "note": hostile}
        for place, arm in enumerate(arms)
    }
    files.write_json(folder / "experiment.json", {"name": folder.name, "seeds": list(seeds), "arms": settings})
    return folder


def _write_stage(stage: str, out: Path, items: Sequence[Problem], place: int, seed: int, hostile: str) -> None:
    if stage == "problems":
        tables.write(out / "problems.parquet", items, Problem)
    elif stage == "verify":
        _write_verdicts(out)
    elif stage == "filter":
        _write_funnel(out, hostile)
    elif stage == "train":
        files.write_json(out / "history.json", _history(place, seed))
    elif stage == "evaluate":
        _write_evaluation(out, items, place, seed, hostile)
    elif stage == "export":
        files.write_json(out / "proof.json", _proof(items, hostile))


def _about(stage: str, key: str, hostile: str) -> dict[str, Any]:
    seconds = {"sample": 61.2, "train": 118.4, "evaluate": 74.9, "export": 21.0}.get(stage, 1.3)
    return {
        "key": key, "made_of": {"stage": stage, "version": 1}, "inputs": {}, "summary": "", "counts": {},
        "rows": export_rows(hostile) if stage == "export" else [],
        "settings": {}, "seed": None, "missed": None,
        "environment": {"python": "3.11.9", "system": "Linux", "packages": {"torch": "2.13.0"}},
        "started": "2026-11-20T11:00:00+00:00", "seconds": seconds,
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
    left, steps = 1000, []
    for name, reasons in rejected.items():
        left -= sum(reasons.values())
        domains = {"product": left // 2, "equation": left - left // 2}
        gone, lengths = sum(reasons.values()), Lengths(84.2, 80.0, 311)
        steps.append(Step(name, gone, reasons, left, left // 2, {"1": left}, domains, lengths))
    files.write_json(out / "funnel.json", {"held_out": 0, "steps": [asdict(step) for step in steps]})


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


def _write_evaluation(out: Path, items: Sequence[Problem], place: int, seed: int, hostile: str) -> None:
    names = ("base", "student", "teacher") if place == 0 else ("student",)
    lines: list[Score] = []
    samples, verdicts, models = [], [], []
    for name in names:
        rate = RATES[name] - (0.55 * place if name == "student" else 0)
        mine = []
        rng = random.Random(f"{name}/{place}/{seed}")
        for problem in items:
            sample, verdict = _answer(problem, f"{name}-{place}-{seed}", rng, rate, hostile)
            samples.append(sample)
            verdicts.append(verdict)
            mine.append(scores.score(name, problem, sample, verdict))
        lines += mine
        models.append(
            {
                "name": name,
                "model": f"{name}-model {hostile}",
                "identity": digest([name, place, seed])[:32],
                "engine": "transformers",
                "thinking": None,
                **summarise(mine),
            }
        )
    data = {"split": "test", "problems": len(items), "samples": 1, "models": models, "ratios": ratios(lines)}
    scores.write(out, lines)
    tables.write(out / "samples.parquet", samples, Sample)
    tables.write(out / "verdicts.parquet", verdicts, Verdict)
    files.write_json(out / "results.json", data)
    files.write_json(out / "timing.json", {})


def _answer(problem: Problem, model: str, rng: random.Random, rate: float, hostile: str) -> tuple[Sample, Verdict]:
    key = sample_key(problem.messages, model, Sampling(), 0)
    draw = rng.random()
    value: VerdictValue = "correct" if draw < rate else "wrong" if rng.random() < 0.7 else "unparseable"
    cut = value == "unparseable"
    thinking = 160 if cut else max(4, round(rng.gauss(62 if "base" not in model else 18, 16)))
    reasoning = f"17*20=340\n17*3=51\n340+51=391\n{hostile}"
    sample = Sample(
        key=key, problem_id=problem.id, index=0, model_id=model, model_name=model, engine="transformers",
        max_tokens=160, finish_reason="length" if cut else "stop", reasoning=reasoning,
        answer="" if cut else f"Answer: \\boxed{{{problem.gold if value == 'correct' else 7}}} {hostile}",
        closed=not cut, completion_tokens=thinking + 8, reasoning_tokens=thinking,
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
                    for name, part in summarise(lines).items()
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
