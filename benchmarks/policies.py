"""What each sampling policy buys for its tokens, on the embedded teacher.

    python -m benchmarks.policies --workspace FOLDER --problems 600 --samples 32

One pool of answers is drawn first (all problems, `--samples` each, at both settings of `SETTINGS`), and kept in the
workspace's ledger. Every policy is then the real `sample` stage over that ledger: what it asks for is there already and
costs nothing, so that all of them are compared on the same answers. Only hinted answers are drawn for their policy.

`--problems` are the embedded source's training problems: products, equations, shops and distances of levels 1 to 3 in
equal parts, as in the quickstart; "level 3" is the hardest third of them. Tokens are completion tokens. Intervals (95%)
are bootstraps over problems. A trace is kept if its answer is correct (by majority label: if it agrees with it).

The best fixed n is the smallest whose kept traces (of each problem at most k) and coverage (problems with any kept
trace, and problems with k) are no less than the adaptive policy's. Between n - 1 and n it is charged for the share of
problems that needs n, which favours it. The oracle knows each problem's pass rate in the pool, and asks one answer at a
time: for k correct ones of the easiest problems, for one of the next, and for none of the rest, until it has as much.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core import tables
from distill.core.protocols import Answer
from distill.core.records import Problem, Sample, Verdict
from distill.core.stage import StageRun, Workspace
from distill.sources import embedded
from distill.stages import labels, verify
from teachers import sample
from teachers.settings import Config as TeacherConfig

SETTINGS = {
    "quickstart: temperature 0.6, top_p 0.95": {"sample_temperature": 0.6, "top_p": 0.95},
    "temperature 1, top_p 1": {"sample_temperature": 1.0, "top_p": 1.0},
}
K = 4
ADAPTIVE = {
    **{f"adaptive k 4, max_n {n}": {"k": K, "max_n": n} for n in (5, 6, 8, 16, 32)},
    "adaptive k 4, max_n 16, rounds of 4": {"k": K, "max_n": 16, "round": 4},
}
POLICIES: dict[str, dict[str, Any]] = {
    **{f"fixed n {n}": {"fixed": n} for n in (1, 2, 4, 8, 16)},
    **{f"adaptive k {k}, max_n 16": {"adaptive": {"k": k, "max_n": 16}} for k in (1, 2)},
    **{name: {"adaptive": settings} for name, settings in ADAPTIVE.items()},
    "adaptive k 4, max_n 16, trivial_after 2": {"adaptive": {"k": K, "max_n": 16, "trivial_after": 2}},
    "star n 4, tries 2": {"star": {"n": 4, "tries": 2}},
    **{f"self_consistency n {n}": {"self_consistency": n} for n in (4, 8, 16)},
}
RESAMPLES = 1000


@dataclass(frozen=True)
class Answers:
    """Answers of one policy: for each problem, in order of index, whether each is kept and right, and its tokens.

    P problems. `label_right_P` is 1 or 0 where a problem got a label that counts, NaN elsewhere.
    """

    kept: list[NDArray[np.bool_]]
    right: list[NDArray[np.bool_]]
    distinct: list[int]
    tokens: list[NDArray[np.int64]]
    label_right_P: NDArray[np.float64]

    def of(self, places: Sequence[int]) -> Answers:
        """Those of some problems."""
        return Answers(
            [self.kept[p] for p in places], [self.right[p] for p in places], [self.distinct[p] for p in places],
            [self.tokens[p] for p in places], self.label_right_P[list(places)],
        )  # fmt: skip


def ask(
    policy: dict[str, Any], sampling: dict[str, float], problems: list[Problem], workspace: Workspace, *, gold: bool
) -> Answers:
    """One policy through the stages `sample` and `verify`; `gold` False hides the gold answers from both."""
    shown = problems if gold else [replace(problem, gold=None) for problem in problems]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables.write(folder / "problems" / "problems.parquet", shown, Problem)
        sections = {
            "sample": sample.Config.model_validate({"policy": policy, "max_tokens": 160, **sampling}),
            "teacher": TeacherConfig.model_validate({"model": "embedded"}),
            "verify": verify.Config(),
        }
        inputs = {"problems": folder / "problems", "sample": folder / "sample"}
        for module in (sample, verify):
            out = folder / module.__name__.rpartition(".")[2]
            out.mkdir(exist_ok=True)
            module.run(StageRun(out.name, out, inputs, sections, 0, workspace))
        samples = tables.read(folder / "sample" / "samples.parquet", Sample)
        verdicts = tables.read(folder / "verify" / "verdicts.parquet", Verdict)
        path = folder / "sample" / labels.FILE
        labelled = tables.read(path, labels.Label) if path.exists() else []
    right = verdicts if gold else verify.grade(
        {problem.id: problem for problem in problems}, samples, verify.Config().verifier, quiet=True
    )  # fmt: skip
    return _by_problem(problems, samples, verdicts, right, labelled)


def _by_problem(
    problems: list[Problem],
    samples: list[Sample],
    verdicts: list[Verdict],
    right: list[Verdict],
    labelled: list[labels.Label],
) -> Answers:
    place = {problem.id: n for n, problem in enumerate(problems)}
    rows: list[list[tuple[bool, bool, int, str]]] = [[] for _ in problems]
    for one, verdict, truth in zip(samples, verdicts, right, strict=True):
        kept = verdict.value == "correct"
        rows[place[one.problem_id]].append((kept, truth.value == "correct", one.completion_tokens, one.text))
    judged = np.full(len(problems), np.nan)
    judge = verify.Config().verifier.module()
    verifier = judge.build(judge.Config())
    for label in labelled:
        if not label.low_support:
            problem = problems[place[label.problem_id]]
            answer = Answer(label.label, problem.gold, extracted=True)
            judged[place[label.problem_id]] = verifier.grade([answer])[0].value == "correct"
    verifier.close()
    return Answers(
        [np.array([kept for kept, *_ in row], dtype=bool) for row in rows],
        [np.array([true for _, true, *_ in row], dtype=bool) for row in rows],
        [len({text for kept, *_, text in row if kept}) for row in rows],
        [np.array([tokens for *_, tokens, _ in row], dtype=np.int64) for row in rows],
        judged,
    )


def table_row(name: str, answers: Answers) -> dict[str, Any]:
    """What a policy asked, paid, kept and covered, a problem, with intervals."""
    per_P = {
        "answers": np.array([len(row) for row in answers.kept], dtype=float),
        "tokens": np.array([row.sum() for row in answers.tokens], dtype=float),
        "kept": np.array([row.sum() for row in answers.kept], dtype=float),
        "distinct": np.array(answers.distinct, dtype=float),
        "covered": np.array([row.any() for row in answers.kept], dtype=float),
        "kept right": np.array([(k & r).sum() for k, r in zip(answers.kept, answers.right, strict=True)], dtype=float),
        "right": np.array([row.sum() for row in answers.right], dtype=float),
    }
    labelled_P = ~np.isnan(answers.label_right_P)
    per_P |= {"labelled": labelled_P.astype(float), "label right": np.nan_to_num(answers.label_right_P)}

    def figures(picked: NDArray[np.int64]) -> list[float]:
        mean = {key: values[picked].mean() for key, values in per_P.items()}
        return [
            mean["answers"], mean["tokens"], mean["kept"], mean["distinct"], mean["covered"],
            mean["right"] / mean["answers"], mean["kept right"] / mean["kept"] if mean["kept"] else np.nan,
            mean["labelled"], mean["label right"] / mean["labelled"] if mean["labelled"] else np.nan,
        ]  # fmt: skip

    columns = (
        "answers", "tokens", "kept", "distinct kept", "covered", "answers right", "kept right", "labelled",
        "labels right",
    )  # fmt: skip
    values, low, high = _interval(figures, len(answers.kept))
    found = {column: [values[n], low[n], high[n]] for n, column in enumerate(columns) if not np.isnan(values[n])}
    return {"policy": name, **found}


def saving(pool: Answers, adaptive: Answers) -> dict[str, Any]:
    """Tokens a problem of the adaptive policy, of the best fixed n, and of the oracle, at equal kept and coverage.

    P problems, N answers each in the pool.
    """
    right_PN, tokens_PN = np.array(pool.right), np.array(pool.tokens)
    kept_PN = np.minimum(right_PN.cumsum(1), K)
    paid_PN = tokens_PN.cumsum(1)
    kept_P = np.minimum([row.sum() for row in adaptive.right], K)
    paid_P = np.array([row.sum() for row in adaptive.tokens])
    paid_PJ = np.stack([_paid_until(kept_PN, paid_PN, j) for j in range(1, K + 1)], axis=1)
    rate_P = right_PN.mean(1)

    def figures(picked: NDArray[np.int64]) -> list[float]:
        goal = _goals(kept_P[picked])
        fixed_n, fixed = _best_fixed(kept_PN[picked], paid_PN[picked].mean(0), goal)
        _, of_kept = _best_fixed(kept_PN[picked], paid_PN[picked].mean(0), [goal[0], 0.0, 0.0])
        oracle = _oracle(kept_PN[picked, -1], paid_PJ[picked], rate_P[picked], goal)
        mine = paid_P[picked].mean()
        return [mine, fixed, fixed_n, oracle, 1 - mine / fixed, 1 - mine / of_kept, mine / oracle - 1, *goal]

    names = (
        "tokens", "fixed tokens", "fixed n", "oracle tokens", "saved", "saved at equal kept alone", "above the oracle",
        "kept", "covered", "with k",
    )  # fmt: skip
    values, low, high = _interval(figures, len(paid_P))
    return {name: [values[n], low[n], high[n]] for n, name in enumerate(names)}


def _goals(kept_P: NDArray[np.int64]) -> list[float]:
    """Kept traces a problem, the share of problems with any, and with k."""
    return [float(kept_P.mean()), float((kept_P > 0).mean()), float((kept_P >= K).mean())]


def _best_fixed(kept_PN: NDArray[np.int64], paid_N: NDArray[np.float64], goal: Sequence[float]) -> tuple[float, float]:
    """The smallest n (in parts, as if some problems got n - 1) that reaches every goal, and its tokens a problem.

    NaN where the pool's largest n does not.
    """
    reached_NG = np.stack([kept_PN.mean(0), (kept_PN > 0).mean(0), (kept_PN >= K).mean(0)], axis=1)
    enough_N = (reached_NG >= np.array(goal) - 1e-12).all(1)
    if not enough_N.any():
        return float("nan"), float("nan")
    n = int(enough_N.argmax())
    if n == 0:
        return 1.0, float(paid_N[0])
    step_G = reached_NG[n] - reached_NG[n - 1]
    lacking_G = np.array(goal) - reached_NG[n - 1]
    part = max(float(lacking / step) for lacking, step in zip(lacking_G, step_G, strict=True) if lacking > 1e-12)
    return n + part, float(paid_N[n - 1] + part * (paid_N[n] - paid_N[n - 1]))


def _paid_until(kept_PN: NDArray[np.int64], paid_PN: NDArray[np.int64], successes: int) -> NDArray[np.int64]:
    """Tokens until so many answers are correct; those of the whole pool where they never are."""
    done_PN = kept_PN >= successes
    last_P = np.where(done_PN.any(1), done_PN.argmax(1), done_PN.shape[1] - 1)
    return np.asarray(paid_PN[np.arange(len(paid_PN)), last_P])


def _oracle(
    kept_P: NDArray[np.int64], paid_PJ: NDArray[np.int64], rate_P: NDArray[np.float64], goal: Sequence[float]
) -> float:
    """Tokens a problem of one that knows the pass rates, at the same kept traces and coverage.

    `kept_P` is what a problem's whole pool would keep, `paid_PJ` what its first 1 to K correct answers cost.
    """
    order = np.argsort(-rate_P, kind="stable")
    kept_P, paid_PJ = kept_P[order], paid_PJ[order]
    kept_goal, covered_goal, with_k_goal = (round(share * len(kept_P)) for share in goal)
    easy = int(np.searchsorted((kept_P >= K).cumsum(), with_k_goal)) + 1 if with_k_goal else 0
    asked = max(easy, int(np.searchsorted((kept_P > 0).cumsum(), covered_goal)) + 1 if covered_goal else 0)
    got = int(kept_P[:easy].sum() + np.minimum(kept_P[easy:asked], 1).sum())
    paid = int(paid_PJ[:easy, -1].sum() + paid_PJ[easy:asked, 0].sum())
    for more in range(1, K):  # what is still missing: second and further traces, of the easiest problems first
        for place in range(easy, asked):
            if got < kept_goal and kept_P[place] > more:
                got, paid = got + 1, paid + int(paid_PJ[place, more] - paid_PJ[place, more - 1])
    return paid / len(kept_P)


def _interval(
    figures: Callable[[NDArray[np.int64]], list[float]], problems: int
) -> tuple[list[float], list[float], list[float]]:
    """The figures on all problems, and the bootstrap's 2.5% and 97.5% quantiles."""
    rng = np.random.default_rng(0)
    whole = figures(np.arange(problems))
    drawn = np.array([figures(rng.integers(0, problems, problems)) for _ in range(RESAMPLES)])
    low, high = np.nanquantile(np.where(np.isnan(drawn).all(0), 0, drawn), [0.025, 0.975], axis=0)
    return whole, list(low), list(high)


def shown(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as a Markdown table; a column is shown by its format."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = []
        for column, form in columns.items():
            value = row.get(column, "-")
            if isinstance(value, list):
                middle, low, high = (form.format(number) for number in value)
                value = f"{middle} ({low} to {high})"
            cells.append(value)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw the pools, replay the policies, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="folder of the ledger; kept, so a repeat is free")
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    problems = embedded.build(embedded.Config(), {"train": options.problems, "dev": 0, "test": 0})
    mixes = {
        "levels 1 to 3": list(range(len(problems))),
        "level 3": [n for n, problem in enumerate(problems) if problem.level == "3"],
    }
    told: dict[str, Any] = {}
    for setting, sampling in SETTINGS.items():
        pool = ask({"fixed": options.samples}, sampling, problems, workspace, gold=True)
        rows, savings = [], []
        for name, policy in POLICIES.items():
            found = ask(policy, sampling, problems, workspace, gold="self_consistency" not in policy)
            rows.append(table_row(name, found))
            if name in ADAPTIVE:
                savings += [
                    {"policy": name, "problems": mix, **saving(pool.of(places), found.of(places))}
                    for mix, places in mixes.items()
                ]
        told[setting] = {"policies": rows, "savings": savings}
        print(f"\n{setting}: {len(problems):,} problems\n")
        print(shown(rows, {
            "policy": "", "answers": "{:.2f}", "tokens": "{:.0f}", "kept": "{:.2f}", "distinct kept": "{:.2f}",
            "covered": "{:.1%}", "answers right": "{:.1%}", "kept right": "{:.1%}", "labelled": "{:.1%}",
            "labels right": "{:.1%}",
        }))  # fmt: skip
        print()
        print(shown(savings, {
            "policy": "", "problems": "", "kept": "{:.2f}", "covered": "{:.1%}", "with k": "{:.1%}", "tokens": "{:.0f}",
            "fixed n": "{:.1f}", "fixed tokens": "{:.0f}", "saved": "{:.1%}",
            "saved at equal kept alone": "{:.1%}", "oracle tokens": "{:.0f}",
        }))  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
