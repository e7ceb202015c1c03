"""What is said of models on a task, as plain data, computed from scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from distill.evaluate import at_k, costs, curves, forcing, metrics, scores
from distill.evaluate.metrics import Rate, Ratio
from distill.evaluate.scores import Score

Plain = dict[str, Any]

EXCLUDED_LIMIT = 0.01
"""Largest share of ungradable and failed answers that a rate may stand on."""


def of_task(lines: Sequence[Score], about: Mapping[str, Mapping[str, Any]]) -> Plain:
    """Every model of a task, the ratio of student to teacher, and all pairs of models on their common problems.

    `about` is what is said of each model beside its figures (identity, engine, manner of asking), by its name.
    """
    by_model = scores.by_model(lines)
    budgets = curves.budgets(lines)
    verdicts = {name: scores.verdicts_by_item(mine) for name, mine in by_model.items()}
    return {
        "models": [{**about[name], **summarise(mine, budgets)} for name, mine in by_model.items()],
        "ratios": ratios(lines),
        "pairs": [asdict(pair) for pair in metrics.pairs(verdicts)],
    }


def summarise(lines: Sequence[Score], budgets: Sequence[int] | None = None) -> Plain:
    """Everything that is said of one model on one task.

    `budgets` are the thinking budgets of its curve; None takes those of these lines.
    """
    levels, domains = sorted({line.level for line in lines}), sorted({line.domain for line in lines})
    verdicts, votes = scores.verdicts_by_item(lines), at_k.votes_by_item(lines)
    voting = at_k.can_vote(lines)
    every_k = at_k.every_k(verdicts)
    parts = scores.parts_by_item(lines)
    return {
        "rate": _rate(lines),
        "thinking_tokens": asdict(metrics.mean_of(scores.lengths_by_item(lines, thinking=True))),
        "completion_tokens": asdict(metrics.mean_of(scores.lengths_by_item(lines, thinking=False))),
        "answers": len(lines),
        "tokens": sum(line.completion_tokens for line in lines),
        "outcomes": {name: sum(line.outcome == name for line in lines) for name in scores.OUTCOMES},
        "loops": sum(line.looping for line in lines),
        "by_level": {level: _rate([line for line in lines if line.level == level]) for level in levels},
        "by_domain": {domain: _rate([line for line in lines if line.domain == domain]) for domain in domains},
        "by_part": asdict(metrics.pass_rate(parts)) if parts else None,
        "pass_at": {str(k): asdict(at_k.pass_at_k(verdicts, k)) for k in every_k},
        "maj_at": {str(k): asdict(at_k.maj_at_k(votes, k)) for k in every_k} if voting else {},
        "cost": _cost(lines),
        "curve": {
            "samples": [asdict(point) for point in curves.by_samples(lines)],
            "budget": [
                asdict(point)
                for point in curves.by_budget(lines, curves.budgets(lines) if budgets is None else budgets)
            ],
        },
    }


def ratios(lines: Sequence[Score]) -> Plain:
    """The student's rate as a share of the teacher's, where both were measured."""
    models = scores.by_model(lines)
    if not {"student", "teacher"} <= set(models):
        return {}
    student, teacher = (scores.verdicts_by_item(models[name]) for name in ("student", "teacher"))
    return {"student/teacher": asdict(metrics.paired_ratio(student, teacher))}


def missed(tasks: Sequence[Mapping[str, Any]]) -> str | None:
    """The models whose rate stands on too little: over 1% of answers were ungradable or failed. None if all is well."""
    bad = []
    for task in tasks:
        for entry in task["models"]:
            forced = [(forcing.manner(one), one["rate"]) for one in entry.get("forced", ())]
            for manner, figures in [("", entry["rate"]), *forced]:
                rate = Rate(**figures)
                if rate.excluded_share > EXCLUDED_LIMIT:
                    total = rate.n + rate.excluded
                    where = f"{entry['name']}{manner}" + (f" on {task['name']}" if len(tasks) > 1 else "")
                    bad.append(f"{where}: {rate.ungradable:,} ungradable and {rate.errors:,} failed of {total:,}")
    if not bad:
        return None
    return (
        f"evaluate: over {EXCLUDED_LIMIT:.0%} of answers could not be counted ({'; '.join(bad)}); mend golds or engine"
    )


def summary(tasks: Sequence[Mapping[str, Any]], split: str) -> str:
    """One line: the rate of every model, task by task."""
    said = []
    for task in tasks:
        parts = [f"{entry['name']} {Rate(**entry['rate'])}" for entry in task["models"]]
        if "student/teacher" in task["ratios"]:
            parts.append(f"student/teacher {Ratio(**task['ratios']['student/teacher'])}")
        kind = f"{split} " if task["name"] == "problems" else f"{task['name']} "
        said.append(f"{', '.join(parts)} on {task['problems']:,} {kind}problems")
    return "; ".join(said)


SELDOM = {
    "cut": "truncated", "open": "unfinished", "none": "no answer", "loops": "loops",
    "ungradable": "ungradable", "error": "error",
}  # fmt: skip
"""Columns that are shown where any model has something in them, and the outcomes that they count."""


def rows(tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table for people, at most 110 columns wide: a row for each model and task.

    `over first` is the difference to the first model of the task in points, `none` where none was shown. `cut` answers
    met the limit, `open` ones never ended their thinking, `none` counts those without an answer. `per right` is how
    many tokens were spent for each correct answer.
    """
    counts = [_counts(entry) for task in tasks for entry in task["models"]]
    shown = {column: name for column, name in SELDOM.items() if any(count[name] for count in counts)}
    several = any(task["samples"] > 1 for task in tasks)
    found = []
    for task in tasks:
        over = {pair["a"]: _gap(pair) for pair in task["pairs"] if pair["b"] == task["models"][0]["name"]}
        for entry in task["models"]:
            counted = _counts(entry)
            found.append({
                **({"task": task["name"]} if len(tasks) > 1 else {}),
                "model": entry["name"],
                "pass@1 [95%]": str(Rate(**entry["rate"])),
                **({"pass@n maj": _at_n(entry)} if several else {}),
                "over first": over.get(entry["name"], ""),
                "wrong": counted["wrong"],
                **{column: counted[name] for column, name in shown.items()},
                "per right": _whole(entry["cost"]["tokens_per_correct"]["value"]),
            })  # fmt: skip
    return found


def _counts(entry: Mapping[str, Any]) -> dict[str, int]:
    return {**entry["outcomes"], "loops": entry["loops"]}


def _gap(pair: Mapping[str, Any]) -> str:
    """Like `+4.1 [0.3, 7.9]`; the interval is of this pair alone, the verdict of all pairs of the task together."""
    value, low, high = (pair["difference"][name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    shown = "none" if pair["verdict"] == metrics.NO_DIFFERENCE else f"{100 * value:+.1f}"
    return f"{shown} [{100 * low:.1f}, {100 * high:.1f}]"


def _at_n(entry: Mapping[str, Any]) -> str:
    """In percent, at the largest k; `-` where answers cannot vote, or nothing was graded."""
    largest = [list(entry[kind].values())[-1:] for kind in ("pass_at", "maj_at")]
    figures = [found[0]["value"] if found else None for found in largest]
    return " ".join("-" if value is None else f"{100 * value:.1f}" for value in figures)


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _cost(lines: Sequence[Score]) -> Plain:
    """Tokens and money of all these answers, and of each correct one; money is None where a price is unknown."""
    known = [line.cost for line in lines if line.cost is not None]
    per_correct = costs.money_per_correct(lines)
    return {
        "prompt_tokens": sum(line.prompt_tokens for line in lines),
        "completion_tokens": sum(line.completion_tokens for line in lines),
        "money": sum(known) if known and len(known) == len(lines) else None,
        "tokens_per_correct": asdict(costs.tokens_per_correct(lines)),
        "money_per_correct": None if per_correct is None else asdict(per_correct),
    }


def _rate(lines: Sequence[Score]) -> Plain:
    return asdict(metrics.pass_rate(scores.verdicts_by_item(lines)))
