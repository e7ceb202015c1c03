"""`distill verify --regrade`: what an upgraded verifier or a corrected gold answer changes in verdicts that there are.

It brings the problems up to date, grades the answers of the last `verify` anew and says which verdicts are not what
they were. Nothing is sampled and nothing is paid for. The new verdicts are kept in the ledger, where `verify` finds
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distill.core import files, rundir, tables
from distill.core.errors import ConfigError, DistillError
from distill.core.ledger import Ledger
from distill.core.records import Problem, Sample, Verdict
from distill.core.stage import Report
from distill.pipeline import Runner
from distill.stages import labels as majority
from distill.stages import verify
from distill.stages.labels import Label

SHOWN = 10
"""Changed verdicts that are shown one by one."""
COLUMNS = ("question", "gold", "answer", "was", "is")
"""What of them people read."""


@dataclass(frozen=True)
class Before:
    """A `verify` that is done: its folder, and where the answers are that it graded."""

    folder: Path
    samples: Path


def regrade(runner: Runner, shown: int = SHOWN) -> Report:
    """Grade anew what the experiment's last `verify` graded, with golds and verifiers as they are now.

    The table has a row for each kind of change; `data["changed"]` has the first `shown` answers with both reasons.
    Raises ConfigError if the experiment has no `verify:`, DistillError if nothing was graded yet.
    """
    if not runner.has("verify"):
        raise ConfigError(f"{runner.experiment.file}: has no section `verify:`")
    before = {arm.name: _before(runner, arm.name) for arm in runner.experiment.arms}
    folders = [done.folder for done in runner.run(until="problems")]  # one for every arm and seed, in order
    of_arms = folders[:: len(runner.experiment.seeds)]  # all seeds share them
    problems = {arm.name: folder for arm, folder in zip(runner.experiment.arms, of_arms, strict=True)}
    kinds: Counter[tuple[str, str]] = Counter()
    examples: list[dict[str, Any]] = []
    same = other_words = 0
    seen: set[tuple[Path, Path, str]] = set()
    with Ledger(runner.workspace.ledger) as ledger:
        for arm in runner.experiment.arms:
            config = cast(verify.Config, arm.sections["verify"])
            this = (before[arm.name].folder, problems[arm.name], str(config.keyed()))
            if this in seen:
                continue
            seen.add(this)
            for sample, problem, old, new in _pairs(before[arm.name], problems[arm.name], config, ledger):
                if old.value == new.value:
                    same += 1
                    other_words += old.reason != new.reason
                    continue
                kinds[old.value, new.value] += 1
                if len(examples) < shown:
                    examples.append(_example(sample, problem, old, new))
    return _report(kinds, same, other_words, examples)


def _pairs(
    before: Before, problems: Path, config: verify.Config, ledger: Ledger
) -> Iterator[tuple[Sample, Problem, Verdict, Verdict]]:
    """Every answer with its verdict as it was and as it is now. Answers to problems that have gone are left out."""
    asked = verify.Problems(problems / "problems.parquet")
    old = tables.stream(before.folder / "verdicts.parquet", Verdict)
    with verify.Graders(config.verifier, ledger, _labels(before.samples, asked, config), ask=_refuse) as graders:
        for batch in tables.batches(before.samples / "samples.parquet", Sample, verify.CHUNK):
            chunk = tables.records(batch, Sample)
            was = [next(old) for _ in chunk]  # verdicts are in the order of the answers
            there = asked.of(sample.problem_id for sample in chunk)
            left = [(s, v) for s, v in zip(chunk, was, strict=True) if s.problem_id in there]
            for (sample, first), now in zip(left, graders.grade(there, [s for s, _ in left]), strict=True):
                yield sample, there[sample.problem_id], first, now


def _refuse(*asked: Any, **more: Any) -> list[Sample]:
    del asked, more
    raise DistillError(
        "verify --regrade: a model would have to judge answers again, which costs tokens; `distill verify` asks it"
    )


def _labels(samples: Path, problems: verify.Problems, config: verify.Config) -> dict[str, Label]:
    """The majority labels of problems that still have no gold answer: a gold that came since goes before its label."""
    if not (samples / majority.FILE).exists():
        return {}
    labels = tables.read(samples / majority.FILE, Label)
    asked = problems.of(label.problem_id for label in labels)
    bare = verify.ungradable(asked.values(), config.verifier)
    return {label.problem_id: label for label in labels if not label.low_support and label.problem_id in bare}


def _before(runner: Runner, arm: str) -> Before:
    """The last `verify` of an arm: the one that run.json names, else the one that was finished last."""
    index = runner.folder / rundir.INDEX
    stages: Mapping[str, Any] = {}
    if index.exists():
        by_seed = files.read_json(index)["arms"].get(arm, {})
        stages = next((found for found in by_seed.values() if "verify" in found), {})
    names = [stages["verify"]["folder"]] if stages else []
    done = sorted(runner.folder.glob(f"verify-*/{rundir.MANIFEST}"), key=lambda path: path.stat().st_mtime)
    for folder in [*(runner.folder / name for name in names), *(path.parent for path in reversed(done))]:
        manifest = folder / rundir.MANIFEST
        if manifest.exists():
            samples = runner.folder / files.read_json(manifest)["inputs"]["sample"]
            if (samples / "samples.parquet").exists():
                return Before(folder, samples)
    raise DistillError(
        f"{runner.folder}: nothing was graded yet, so there is nothing to compare with; run `distill verify` first"
    )


def _example(sample: Sample, problem: Problem, old: Verdict, new: Verdict) -> dict[str, Any]:
    return {
        "question": _short(problem.messages[-1].content),
        "gold": _short(problem.gold or problem.tests or "-"),
        "answer": _short(new.extracted or old.extracted or sample.answer),
        "was": f"{old.value}: {old.reason}",
        "is": f"{new.value}: {new.reason}",
        "sample": sample.key,
    }


def _short(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= 60 else f"{folded[:57]}..."


def _report(kinds: Counter[tuple[str, str]], same: int, other_words: int, examples: list[dict[str, Any]]) -> Report:
    changed = kinds.total()
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    remark = f" ({other_words:,} of these with another reason)" if other_words else ""
    return Report(
        summary=f"{changed:,} of {changed + same:,} verdicts changed; {same:,} are as they were{remark}",
        rows=[{"was": was, "is": now, "answers": count} for (was, now), count in ordered],
        data={"changed": changed, "same": same, "other reasons": other_words, "examples": examples},
    )
