"""A plot of a run's models: accuracy with intervals, and accuracy against the tokens that an answer may take.

distill run configs/classic.yaml
python -m benchmarks.models_plot runs/classic --out docs/classic.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

INK = "#222222"
STYLES = (("#666666", "s"), ("#CC79A7", "v"), ("#0072B2", "o"), ("#D55E00", "^"))  # Okabe and Ito, shapes beside


def draw(task: dict[str, Any], out: Path) -> None:
    """Write an SVG of one task of a results.json."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "distill"  # the same picture has the same bytes
    import matplotlib.pyplot as plt

    models = task["models"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for place, (model, (colour, marker)) in enumerate(zip(models, STYLES, strict=False)):
        rate = {end: 100 * model["rate"][end] for end in ("value", "low", "high")}
        left.plot([rate["low"], rate["high"]], [place, place], color=colour, linewidth=2)
        left.plot(rate["value"], place, marker, color=colour, markersize=6)
        left.annotate(f"{rate['value']:.1f}%", (rate["value"], place), (0, 7), textcoords="offset points", ha="center")
        points = model["curve"]["budget"]
        values = [100 * point["rate"]["value"] for point in points]
        ends = [[100 * point["rate"][end] for point in points] for end in ("low", "high")]
        budgets = [point["budget"] for point in points]
        right.plot(budgets, values, marker, color=colour, linestyle="-", markersize=4, label=model["name"])
        right.fill_between(budgets, *ends, color=colour, alpha=0.15, linewidth=0)
    left.set_yticks(range(len(models)), [model["name"] for model in models])
    left.set_ylim(len(models) - 0.5, -0.7)
    left.set_xlim(-4, 104)
    left.set_xlabel(f"problems solved, % ({task['problems']} problems, {task['samples']} answers each)")
    right.set_xlabel("tokens allowed for an answer")
    right.set_ylabel("problems solved, %")
    right.legend(frameon=False)
    for axes in (left, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Read the run's first evaluation, draw the models of its first task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    arms = json.loads((args.run / "run.json").read_text(encoding="utf-8"))["arms"]
    stages = next(iter(next(iter(arms.values())).values()))
    results = json.loads((args.run / stages["evaluate"]["folder"] / "results.json").read_text(encoding="utf-8"))
    draw(results["tasks"][0], args.out)


if __name__ == "__main__":
    main()
