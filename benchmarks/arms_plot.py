"""A plot of an experiment's arms: each one's difference to the first with its interval, and every seed by itself.

distill run configs/kl-ablation.yaml
python -m benchmarks.arms_plot runs/kl-ablation --out docs/kl-ablation.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

INK, DOT, LINE = "#222222", "#0072B2", "#D55E00"  # told apart by the colour-blind (Okabe and Ito)


def draw(arms: list[dict[str, Any]], out: Path) -> None:
    """Write an SVG. Arms that were not trained on reasoning at all would squeeze the rest: they are named below it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "distill"  # the same picture has the same bytes
    import matplotlib.pyplot as plt

    first, others = arms[0], arms[1:]
    shown = [arm for arm in others if abs(arm["difference"]["value"]) < 0.3]
    left = [arm for arm in others if arm not in shown]
    figure, axes = plt.subplots(figsize=(7.5, 0.45 * len(shown) + 1.4), layout="constrained")
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, arm in enumerate(reversed(shown)):
        gaps = [100 * (a - b) for a, b in zip(arm["rates"], first["rates"], strict=True)]
        axes.plot(gaps, [place] * len(gaps), "o", color=DOT, alpha=0.5, markersize=5, linestyle="none")
        low, high = (100 * arm["difference"][end] for end in ("low", "high"))
        axes.plot([low, high], [place, place], color=LINE, linewidth=2)
        axes.plot(100 * arm["difference"]["value"], place, "D", color=LINE, markersize=6)
    axes.set_yticks(range(len(shown)), [arm["arm"].replace("_", " ") for arm in reversed(shown)])
    axes.set_xlabel(f"points of pass@1 against {first['arm']} ({100 * first['mean']['value']:.1f}%)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if left:
        names = ", ".join(f"{arm['arm'].replace('_', ' ')} {100 * arm['difference']['value']:+.1f}" for arm in left)
        figure.text(0.01, 0.005, f"not shown: {names} points", fontsize=8, color=INK)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Read the run's report.json, draw its arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw(json.loads((args.run / "report.json").read_text(encoding="utf-8"))["arms"], args.out)


if __name__ == "__main__":
    main()
