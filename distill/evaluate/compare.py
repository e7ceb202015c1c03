"""Arms of one run against its first, paired over problems and seeds: a difference with an interval, or none shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core import rundir
from distill.core.errors import DistillError
from distill.core.records import VerdictValue
from distill.evaluate import metrics, scores
from distill.evaluate.metrics import Difference, Mean

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

    @property
    def verdict(self) -> str:
        """`higher`, `lower` or `no difference shown` against the first arm; empty for the first arm."""
        return "" if self.difference is None else self.difference.verdict


def compare(run: Path, model: str = "student") -> list[ArmResult]:
    """The arms of a run by their `model`, in the experiment's order; arms that were not evaluated are left out.

    An arm and the first one are paired over the seeds that both have. Raises DistillError if they were evaluated on
    different problems.
    """
    measured: dict[str, dict[str, list[scores.Score]]] = {}
    for arm, seeds in rundir.read_index(run)["arms"].items():
        for seed, stages in seeds.items():
            if "evaluate" in stages:
                lines = scores.by_model(scores.read(run / stages["evaluate"]["folder"])).get(model)
                if lines:
                    measured.setdefault(arm, {})[seed] = lines
    results: list[ArmResult] = []
    first: dict[str, Verdicts] | None = None
    for arm, by_seed in measured.items():
        verdicts: dict[str, Verdicts] = {s: scores.verdicts_by_item(lines) for s, lines in by_seed.items()}
        _refuse_mixed_problems(run, arm, [*verdicts.values(), *(first or {}).values()])
        lengths = scores.lengths_by_item((line for lines in by_seed.values() for line in lines), thinking=True)
        results.append(
            ArmResult(
                arm=arm,
                seeds=tuple(verdicts),
                rates=tuple(metrics.pass_rate(items).value for items in verdicts.values()),
                mean=metrics.rate_over_seeds(list(verdicts.values())),
                difference=None if first is None else _difference(verdicts, first),
                thinking_tokens=metrics.mean_of(lengths).value,
            )
        )
        first = verdicts if first is None else first
    return results


def rows(results: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """The comparison as a table for people."""
    first = results[0].arm if results else ""
    return [
        {
            "arm": result.arm,
            "seeds": len(result.seeds),
            "pass@1 by seed": ", ".join("-" if rate is None else f"{100 * rate:.1f}" for rate in result.rates),
            "mean [95%]": _percent(result.mean),
            f"difference to {first} [95%]": "" if result.difference is None else str(result.difference),
            "verdict": result.verdict,
            "thinking tokens": "-" if result.thinking_tokens is None else f"{result.thinking_tokens:.0f}",
        }
        for result in results
    ]


def _difference(arm: Mapping[str, Verdicts], first: Mapping[str, Verdicts]) -> Difference | None:
    common = [seed for seed in first if seed in arm]
    if not common:
        return None
    return metrics.paired_difference([arm[seed] for seed in common], [first[seed] for seed in common])


def _refuse_mixed_problems(run: Path, arm: str, sides: Sequence[Verdicts]) -> None:
    if any(set(side) != set(sides[0]) for side in sides):
        raise DistillError(
            f"{run}: arm `{arm}` was evaluated on other problems than the first arm or between its seeds; "
            "run the experiment again so that all arms share `problems:` and `evaluate.split`"
        )


def _percent(mean: Mean) -> str:
    if mean.value is None or mean.low is None or mean.high is None:
        return "-"
    return f"{100 * mean.value:.1f}% [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
