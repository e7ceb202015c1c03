"""Models of one or several runs, paired over the problems (and seeds) they share: a difference, or none shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from distill.core import rundir
from distill.core.errors import ConfigError, DistillError
from distill.core.records import VerdictValue
from distill.evaluate import costs, metrics, scores
from distill.evaluate.metrics import Difference, Estimate, Mean, Pair
from distill.evaluate.scores import Score
from distill.evaluate.sides import ANY_SEED, STUDENT, Side, named

Verdicts = Mapping[str, Sequence[VerdictValue]]


@dataclass(frozen=True)
class ArmResult:
    """One arm's model over its seeds. `difference` to the first arm is None for the first arm itself."""

    arm: str
    seeds: tuple[str, ...]
    rates: tuple[float | None, ...]
    """pass@1 of each seed."""
    mean: Mean
    difference: Difference | None
    thinking_tokens: float | None
    """Mean over all answers of all seeds."""
    p_holm: float | None = None
    """p-value of the difference, adjusted over all arms."""
    verdict: str = ""
    """`higher`, `lower` or `no difference shown` against the first arm, by `p_holm`; empty for the first arm."""


@dataclass(frozen=True)
class SideResult:
    """One side of a task's comparison, on the common problems alone. `left_out` are its problems beyond those.

    `seeds` is empty for a model that was not trained in the run.
    """

    name: str
    run: str
    arm: str
    seeds: tuple[str, ...]
    model: str
    left_out: int
    rate: Mean
    thinking_tokens: Mean
    completion_tokens: Mean
    tokens_per_correct: Estimate
    money_per_correct: Estimate | None
    lines: Sequence[Score] = field(repr=False)
    """Scores on the common problems, of all seeds."""


@dataclass(frozen=True)
class TaskComparison:
    """The sides that were measured on one task. `notes` say where they were not measured alike."""

    task: str
    common: int
    """Problems that all sides have."""
    sides: tuple[SideResult, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What `distill compare` says. `notes` are about tasks that could not be compared."""

    tasks: tuple[TaskComparison, ...]
    notes: tuple[str, ...] = ()


def compare(run: Path, model: str = STUDENT, task: str | None = None) -> list[ArmResult]:
    """The arms of a run by their `model`, in the experiment's order; arms that were not evaluated are left out.

    An arm and the first one are paired over the seeds that both have, on one task: the first that was measured unless
    named. Verdicts are Holm's over all arms. Raises DistillError if arms were evaluated on different problems.
    """
    measured: dict[str, dict[str, list[Score]]] = {}
    for arm, seeds in rundir.read_index(run)["arms"].items():
        for seed, stages in seeds.items():
            if "evaluate" in stages:
                lines = scores.by_model(scores.read(run / stages["evaluate"]["folder"])).get(model, [])
                task = task if task is not None else next((line.task for line in lines), None)
                lines = [line for line in lines if line.task == task]
                if lines:
                    measured.setdefault(arm, {})[seed] = lines
    verdicts = {arm: _verdicts(of_arm) for arm, of_arm in measured.items()}
    first = next(iter(verdicts), None)
    if first is None:
        return []
    for arm, of_arm in verdicts.items():
        _refuse_mixed_problems(run, arm, [*of_arm.values(), *verdicts[first].values()])
    others = [arm for arm in verdicts if set(verdicts[arm]) & set(verdicts[first]) and arm != first]
    pairs = metrics.adjusted([_pair(arm, first, verdicts[arm], verdicts[first]) for arm in others])
    found = {pair.a: pair for pair in pairs}
    results = []
    for arm, by_seed in measured.items():
        pair = found.get(arm)
        lengths = scores.lengths_by_item((line for lines in by_seed.values() for line in lines), thinking=True)
        results.append(
            ArmResult(
                arm=arm,
                seeds=tuple(by_seed),
                rates=tuple(metrics.pass_rate(items).value for items in verdicts[arm].values()),
                mean=metrics.rate_over_seeds(list(verdicts[arm].values())),
                difference=None if pair is None else pair.difference,
                thinking_tokens=metrics.mean_of(lengths).value,
                p_holm=None if pair is None else pair.p_holm,
                verdict="" if pair is None else pair.verdict,
            )
        )
    return results


def rows(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """The comparison of a run's arms as a table for people."""
    first = results[0].arm if results else ""
    return [
        {
            "arm": result.arm,
            "seeds": len(result.seeds),
            "pass@1 by seed": ", ".join("-" if rate is None else f"{100 * rate:.1f}" for rate in result.rates),
            "mean [95%]": _percent(result.mean),
            f"difference to {first} [95%]": "" if result.difference is None else str(result.difference),
            "p (Holm)": p_text(result.p_holm),
            "verdict": result.verdict,
            "thinking tokens": "-" if result.thinking_tokens is None else f"{result.thinking_tokens:.0f}",
        }
        for result in results
    ]


def table(
    sides: Sequence[str], workspace: Path = Path(), *, all_pairs: bool = False, tasks: Sequence[str] = ()
) -> Comparison:
    """Compare sides (see the module), each with the first, or each with each, on every task that two of them share.

    Holm's adjustment is over the comparisons of a task. `tasks` keeps these tasks only. Raises ConfigError for a side
    that is not there or cannot be told from another, DistillError where sides have no problem or no seed in common.
    """
    found = named(list(sides), workspace)
    known = list(dict.fromkeys(line.task for side in found for lines in side.by_seed.values() for line in lines))
    missing = [task for task in tasks if task not in known]
    if missing:
        raise ConfigError(f"task `{missing[0]}`: no side was measured on it; there are {', '.join(known)}")
    compared, notes = [], []
    for task in tasks or known:
        there = [side for side in found if any(side.lines(task).values())]
        if len(there) < len(found):
            without = ", ".join(side.name for side in found if side not in there)
            notes.append(f"task `{task}`: not measured: {without}")
        if len(there) > 1:
            compared.append(_of_task(task, there, all_pairs))
    if not compared:
        raise DistillError(f"{', '.join(side.name for side in found)}: no task that two of them were measured on")
    return Comparison(tuple(compared), tuple(notes))


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data, without the single scores."""
    tasks = []
    for task in comparison.tasks:
        sides = [
            {key: value for key, value in vars(side).items() if key != "lines"}
            | {name: _plain(getattr(side, name)) for name in FIGURES}
            for side in task.sides
        ]
        pairs = [asdict(pair) for pair in task.pairs]
        tasks.append({
            "task": task.task, "common": task.common, "notes": list(task.notes), "sides": sides, "pairs": pairs,
        })  # fmt: skip
    return {"tasks": tasks, "notes": list(comparison.notes)}


FIGURES = ("rate", "thinking_tokens", "completion_tokens", "tokens_per_correct", "money_per_correct")


def side_rows(task: TaskComparison) -> list[dict[str, Any]]:
    """The sides of a task as a table for people."""
    return [
        {
            "side": side.name,
            "seeds": ", ".join(side.seeds) or "-",
            "pass@1 [95%]": _percent(side.rate),
            "thinking tokens": str(side.thinking_tokens),
            "tokens": str(side.completion_tokens),
            "tokens per correct": side.tokens_per_correct.plain,
            **({} if side.money_per_correct is None else {"money per correct": _money(side.money_per_correct)}),
        }
        for side in task.sides
    ]


def pair_rows(task: TaskComparison) -> list[dict[str, Any]]:
    """The comparisons of a task as a table for people."""
    return [
        {
            "comparison": f"{pair.a} - {pair.b}",
            "difference [95%]": str(pair.difference),
            "p": p_text(pair.difference.p),
            "p (Holm)": p_text(pair.p_holm),
            "detectable": "-"
            if pair.difference.detectable is None
            else f"{100 * pair.difference.detectable:.1f} points",
            "verdict": pair.verdict,
        }
        for pair in task.pairs
    ]


def p_text(p: float | None) -> str:
    """A p-value as it is written: three digits, and no pretence below 0.001."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _of_task(task: str, sides: Sequence[Side], all_pairs: bool) -> TaskComparison:
    lines = [{seed: found for seed, found in side.lines(task).items() if found} for side in sides]
    problems = [{line.problem_id for found in by_seed.values() for line in found} for by_seed in lines]
    # a problem counts if every seed of every side has it
    common = set.intersection(*({line.problem_id for line in found} for by_seed in lines for found in by_seed.values()))
    if not common:
        counts = ", ".join(f"{side.name} {len(own):,}" for side, own in zip(sides, problems, strict=True))
        raise DistillError(
            f"task `{task}`: the sides have no problem in common ({counts}); only answers to the same problems "
            "can be paired, so evaluate them with one `problems:` and one `evaluate.split`"
        )
    shared = [
        {seed: [line for line in found if line.problem_id in common] for seed, found in by_seed.items()}
        for by_seed in lines
    ]
    verdicts = {side.name: _verdicts(by_seed) for side, by_seed in zip(sides, shared, strict=True)}
    names = [side.name for side in sides]
    chosen = [(b, a) for a, b in combinations(names, 2)] if all_pairs else [(name, names[0]) for name in names[1:]]
    pairs = metrics.adjusted([_pair(a, b, verdicts[a], verdicts[b]) for a, b in chosen])
    results = [
        _side_result(side, by_seed, len(own - common))
        for side, by_seed, own in zip(sides, shared, problems, strict=True)
    ]
    return TaskComparison(task, len(common), tuple(results), tuple(pairs), tuple(_unlike(task, sides)))


def _side_result(side: Side, by_seed: Mapping[str, Sequence[Score]], left_out: int) -> SideResult:
    lines = [line for found in by_seed.values() for line in found]
    return SideResult(
        name=side.name,
        run=side.run.resolve().name,
        arm=side.arm,
        seeds=tuple(seed for seed in by_seed if seed != ANY_SEED),
        model=side.model,
        left_out=left_out,
        rate=metrics.rate_over_seeds(list(_verdicts(by_seed).values())),
        thinking_tokens=metrics.mean_of(scores.lengths_by_item(lines, thinking=True)),
        completion_tokens=metrics.mean_of(scores.lengths_by_item(lines, thinking=False)),
        tokens_per_correct=costs.tokens_per_correct(lines),
        money_per_correct=costs.money_per_correct(lines),
        lines=lines,
    )


def _verdicts(by_seed: Mapping[str, Sequence[Score]]) -> dict[str, Verdicts]:
    return {seed: scores.verdicts_by_item(lines) for seed, lines in by_seed.items()}


def _pair(name_a: str, name_b: str, a: Mapping[str, Verdicts], b: Mapping[str, Verdicts]) -> Pair:
    """a - b over the seeds that both have; a model without seeds stands beside each of the other's."""
    if ANY_SEED in a or ANY_SEED in b or len(a) == len(b) == 1:
        seeds = max(len(a), len(b))
        sides = [list(side.values()) * (seeds if len(side) == 1 else 1) for side in (a, b)]
    else:
        common = [seed for seed in b if seed in a]
        if not common:
            raise DistillError(
                f"{name_a} has the seeds {', '.join(a)} and {name_b} {', '.join(b)}: none in common; name one seed of "
                "each (RUN:ARM:SEED)"
            )
        sides = [[side[seed] for seed in common] for side in (a, b)]
    return metrics.pair(name_a, name_b, *sides)


def _unlike(task: str, sides: Sequence[Side]) -> Iterable[str]:
    """What two sides were not measured alike in: then a difference may be one of settings."""
    for name in ("sampling", "verifier"):
        values = [(side.settings.get(task) or {}).get(name) for side in sides]
        for side, value in zip(sides[1:], values[1:], strict=True):
            if value is not None and values[0] is not None and value != values[0]:
                yield f"{side.name} and {sides[0].name} differ in {name}: {_difference(value, values[0])}"


def _difference(a: Any, b: Any) -> str:
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return f"{a} and {b}"
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return ", ".join(f"{key} {a.get(key)} and {b.get(key)}" for key in keys)


def _refuse_mixed_problems(run: Path, arm: str, sides: Sequence[Verdicts]) -> None:
    if any(set(side) != set(sides[0]) for side in sides):
        raise DistillError(
            f"{run}: arm `{arm}` was evaluated on other problems than the first arm or between its seeds; "
            "run the experiment again so that all arms share `problems:` and `evaluate.split`"
        )


def _plain(figure: Mean | Estimate | None) -> dict[str, Any] | None:
    return None if figure is None else asdict(figure)


def _percent(mean: Mean) -> str:
    return Estimate(mean.value, mean.low, mean.high).percent


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} points"


def _money(figure: Estimate) -> str:
    if figure.value is None:
        return "-"
    text = f"{figure.value:.3g}"
    return text if figure.low is None or figure.high is None else f"{text} [{figure.low:.3g}, {figure.high:.3g}]"
