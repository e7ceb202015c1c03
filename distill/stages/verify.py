"""`verify`: says of every answer whether it is correct, wrong, unparseable or cannot be graded, and why.

Answers are read, graded and written in chunks, in their order: memory grows with the problems and not with the
answers. What a verifier does outside this process it does on all cores. Verdicts are kept in the workspace's ledger by
key (answer, gold, verifier with version and settings), so that a corrected gold or another verifier grades again and
pays for nothing. Where problems have no gold answer and the samples came with majority labels, it grades against
those, and says so in every such verdict.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast, get_args

from pydantic import Field, TypeAdapter

from distill.core import plugins, tables
from distill.core.config import Settings, canonical, digest
from distill.core.device import usable_cores
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.plugins import Choice, ChoiceOf
from distill.core.progress import Progress
from distill.core.protocols import Answer, Asking, AskModel, Finding, Verifier
from distill.core.records import Problem, Sample, Verdict, VerdictValue, verdict_key
from distill.core.stage import Report, StageRun, Workspace
from distill.stages import labels as majority
from distill.stages.asking import Asker
from distill.stages.labels import Label

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
VALUES: tuple[VerdictValue, ...] = get_args(VerdictValue)
CHUNK = 2048

VerifierChoice = Annotated[Choice, ChoiceOf("distill.verifiers", "verifier")]


class Config(Settings):
    """Settings of `verify:`."""

    verifier: VerifierChoice = Field(default="math", validate_default=True)
    """How answers are graded, where a problem does not name its own verifier."""


class Store(Protocol):
    """Where verdicts are kept between runs: the ledger."""

    def verdicts(self, keys: Sequence[str]) -> dict[str, Verdict]: ...

    def put_verdicts(self, verdicts: Sequence[Verdict]) -> None: ...


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """What the verifier needs and this machine lacks (a sandbox, say) is refused before any answer is paid for."""
    if "verify" in sections:
        choice = cast(Config, sections["verify"]).verifier
        ready = getattr(choice.module(), "ready", None)
        try:
            if ready is not None:
                ready(choice.config)
        except DistillError as error:
            return ("verify", "verifier"), f"`verify.verifier`: {error}"
    return None


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The versions of all verifiers: problems may name any, and what an upgraded one would say anew is stale."""
    modules = {name: plugins.load("distill.verifiers", name) for name in plugins.names("distill.verifiers")}
    chosen = cast(Config, sections["verify"]).verifier
    modules[chosen.name] = chosen.module()  # perhaps the user's own
    return {"verifiers": digest({name: getattr(module, "VERSION", None) for name, module in modules.items()})}


def grade(
    problems: Mapping[str, Problem],
    samples: Sequence[Sample],
    verifier: Choice,
    *,
    store: Store | None = None,
    labels: Mapping[str, Label] | None = None,
    quiet: bool = False,
    workspace: Workspace | None = None,
) -> list[Verdict]:
    """One verdict per sample, in order. A problem's own verifier goes before `verifier`.

    Problems named in `labels` are graded against their label instead of gold. `quiet` shows no progress. A sample that
    failed at the engine is `error` with its reason. Raises DistillError for a sample whose problem is not among
    `problems`.
    """
    verdicts: list[Verdict] = []
    with (
        Graders(verifier, store, labels, workspace) as graders,
        nullcontext() if quiet else Progress("verify", len(samples), "answers") as bar,
    ):
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            verdicts += graders.grade(problems, chunk)
            if bar is not None:
                bar.advance(len(chunk))
    return verdicts


def run(stage: StageRun) -> Report:
    """Grade the samples; write verdicts.parquet in their order."""
    config = cast(Config, stage.sections["verify"])
    problems = Problems(stage.inputs["problems"] / "problems.parquet")
    samples = stage.inputs["sample"] / "samples.parquet"
    tally = Tally()
    with (
        Ledger(stage.workspace.ledger) as ledger,
        Graders(config.verifier, ledger, _labels(stage, problems, config.verifier), stage.workspace) as graders,
    ):
        graded = graders.stream(problems, samples)
        tables.write(stage.out / "verdicts.parquet", tally.watch(graded), Verdict)
    return tally.report()


class Problems:
    """The problems of a file, kept as Arrow with an index: a million of them as objects would fill the memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._table = pa.Table.from_batches(tables.batches(path, Problem), tables.arrow_schema(Problem))
        self._place = {name: place for place, name in enumerate(self._table.column("id").to_pylist())}

    def of(self, ids: Iterable[str]) -> dict[str, Problem]:
        """Those of the problems with these ids that there are, by id."""
        places = sorted({self._place[name] for name in ids if name in self._place})
        return {problem.id: problem for problem in tables.records(_taken(self._table, places), Problem)}

    def all(self) -> dict[str, Problem]:
        """Every problem, by id."""
        return {problem.id: problem for problem in tables.records(self._table, Problem)}


def _taken(table: pa.Table, places: Sequence[int]) -> pa.Table:
    import pyarrow as pa

    return table.take(pa.array(places, pa.int64()))  # the type is said: an empty list has none


class Graders:
    """The verifiers that problems ask for, each built once and open until the end: a context manager.

    Those that ask a model do so in `workspace` or, without one, through `ask`.
    """

    def __init__(
        self,
        verifier: Choice,
        store: Store | None = None,
        labels: Mapping[str, Label] | None = None,
        workspace: Workspace | None = None,
        ask: AskModel | None = None,
    ) -> None:
        self.verifier, self.store, self.labels, self._ask = verifier, store, labels or {}, ask
        self._open: dict[str, Verifier] = {}
        self._asker = None if workspace is None else Asker(workspace)

    def __enter__(self) -> Graders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for verifier in self._open.values():
            verifier.close()
        self._open.clear()
        if self._asker is not None:
            self._asker.close()

    def stream(self, problems: Problems, samples: Path) -> Iterator[tuple[Problem, Verdict]]:
        """Every sample of a file with its problem, graded, in order; a chunk of them is in memory at a time."""
        import pyarrow.parquet as pq

        with Progress("verify", pq.ParquetFile(samples).metadata.num_rows if samples.exists() else 0, "answers") as bar:
            for batch in tables.batches(samples, Sample, CHUNK):
                chunk = tables.records(batch, Sample)
                asked = problems.of(sample.problem_id for sample in chunk)
                verdicts = self.grade(asked, chunk)
                bar.advance(len(chunk))
                yield from zip((asked[sample.problem_id] for sample in chunk), verdicts, strict=True)

    def grade(self, problems: Mapping[str, Problem], samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict per sample of a chunk, in order."""
        by_verifier: dict[str, tuple[Choice, list[int]]] = {}
        for index, sample in enumerate(samples):
            if sample.problem_id not in problems:
                raise DistillError(
                    f"verify: answer {sample.key[:12]} is to a problem that is not there: {sample.problem_id}"
                )
            choice = choice_of(problems[sample.problem_id], self.verifier)
            by_verifier.setdefault(canonical(choice.keyed()), (choice, []))[1].append(index)
        verdicts: dict[int, Verdict] = {}
        for name, (choice, indexes) in by_verifier.items():
            if name not in self._open:
                built: Verifier = choice.module().build(on_all_cores(choice.config))
                if isinstance(built, Asking):
                    built.ask = self._asker or self._ask
                self._open[name] = built
            pairs = [(self._against(problems[samples[index].problem_id]), samples[index]) for index in indexes]
            graded = _grade_chunk(pairs, self._open[name], choice.config.keyed(), self.store, self.labels)
            verdicts |= dict(zip(indexes, graded, strict=True))
        return [verdicts[index] for index in range(len(samples))]

    def _against(self, problem: Problem) -> Problem:
        label = self.labels.get(problem.id)
        return problem if label is None else replace(problem, gold=label.label)


def on_all_cores(config: Any) -> Any:
    """A verifier's settings with as many workers as there are cores, where nobody has said how many."""
    changed: dict[str, Any] = {}
    if "workers" in type(config).model_fields and "workers" not in config.model_fields_set:
        changed["workers"] = usable_cores()
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, list) and value and isinstance(value[0], Choice):  # the parts of any_of and all_of
            changed[name] = [replace(part, config=on_all_cores(part.config)) for part in value]
    return config.model_copy(update=changed) if changed else config


def ungradable(problems: Iterable[Problem], verifier: Choice) -> dict[str, str]:
    """Problems that nothing can be graded against, with the reason, by id.

    Found by grading an empty answer, which is unparseable wherever there is something to grade it against.
    """
    faults: dict[str, str] = {}
    by_verifier: dict[str, tuple[Choice, list[Problem]]] = {}
    for problem in problems:
        choice = choice_of(problem, verifier)
        by_verifier.setdefault(canonical(choice.keyed()), (choice, []))[1].append(problem)
    for choice, group in by_verifier.values():
        judge: Verifier = choice.module().build(choice.config)
        try:
            findings = judge.grade([Answer("", problem.gold, problem.tests) for problem in group])
        finally:
            judge.close()
        pairs = zip(group, findings, strict=True)
        faults |= {problem.id: finding.reason for problem, finding in pairs if finding.value == "ungradable"}
    return faults


def _labels(stage: StageRun, problems: Problems, verifier: Choice) -> dict[str, Label]:
    folder = stage.inputs["sample"]
    if not (folder / majority.FILE).exists():
        return {}
    everything = problems.all()
    return majority.read(folder, everything, ungradable(everything.values(), verifier))


class Tally:
    """Counts of every verdict, in all and by level or domain, and of every reason."""

    def __init__(self) -> None:
        self.groups: dict[str, Counter[VerdictValue]] = defaultdict(Counter)
        self.reasons: Counter[str] = Counter()
        self.labelled = 0

    def watch(self, graded: Iterable[tuple[Problem, Verdict]]) -> Iterator[Verdict]:
        """The verdicts, counted as they pass."""
        for problem, verdict in graded:
            self.groups[_group(problem)][verdict.value] += 1
            self.reasons[f"{verdict.value}: {verdict.reason}"] += 1
            self.labelled += verdict.label_source == "majority"
            yield verdict

    def report(self) -> Report:
        """A row for each group, and for all."""
        total = sum(self.groups.values(), Counter[VerdictValue]())
        several = {name: self.groups[name] for name in sorted(self.groups)} if len(self.groups) > 1 else {}
        shown = [value for value in VALUES if total[value]]
        rows: list[dict[str, Any]] = [
            {"problems": name, **{value: counts[value] for value in shown}, "correct of graded": _rate(counts)}
            for name, counts in {"all": total, **several}.items()
        ]
        summary = "   ".join(f"{value} {total[value]:,}" for value in shown) or "no answers"
        return Report(
            summary=summary + (f"; {self.labelled:,} against majority labels, not gold" if self.labelled else ""),
            rows=rows,
            data={"verdicts": {value: total[value] for value in VALUES}, "reasons": dict(self.reasons.most_common())}
            | ({"majority": self.labelled} if self.labelled else {}),
        )


def _grade_chunk(
    pairs: Sequence[tuple[Problem, Sample]],
    verifier: Verifier,
    settings: dict[str, Any],
    store: Store | None,
    labels: Mapping[str, Label],
) -> list[Verdict]:
    keys = [_key(problem, sample, verifier, settings, problem.id in labels) for problem, sample in pairs]
    known = {} if store is None else store.verdicts(keys)
    missing = [(key, *pair) for key, pair in zip(keys, pairs, strict=True) if key not in known]
    findings = _findings([(problem, sample) for _, problem, sample in missing], verifier)
    made = [
        Verdict(
            key=key, sample_key=sample.key, value=finding.value, reason=finding.reason,
            extracted=finding.extracted, score=finding.score, step_scores=finding.step_scores,
            verifier=verifier.name, verifier_version=verifier.version,
            label_source="majority" if problem.id in labels else "gold",
        )
        for (key, problem, sample), finding in zip(missing, findings, strict=True)
    ]  # fmt: skip
    if store is not None and made:
        store.put_verdicts([verdict for verdict in made if verdict.value != "error"])
    known |= {verdict.key: verdict for verdict in made}
    return [_supported(known[key], labels.get(problem.id)) for key, (problem, _) in zip(keys, pairs, strict=True)]


def _findings(pairs: Sequence[tuple[Problem, Sample]], verifier: Verifier) -> list[Finding]:
    """Grade what the engine gave; what it failed to give is an error of ours, not a wrong answer."""
    given = [(problem, sample) for problem, sample in pairs if sample.finish_reason != "error"]
    answers = [
        Answer(
            sample.answer,
            problem.gold,
            problem.tests,
            sample.finish_reason,
            sample.closed,
            reasoning=sample.reasoning,
            question=problem.messages[-1].content,
        )
        for problem, sample in given
    ]
    findings = iter(verifier.grade(answers) if answers else [])
    return [_failed(sample) if sample.finish_reason == "error" else next(findings) for _, sample in pairs]


def _failed(sample: Sample) -> Finding:
    return Finding("error", sample.error or "the engine gave no answer")


def _supported(verdict: Verdict, label: Label | None) -> Verdict:
    """With the support of the label: more samples change it, and not the verdict."""
    return verdict if label is None else replace(verdict, label_support=label.support)


def _key(problem: Problem, sample: Sample, verifier: Verifier, settings: dict[str, Any], labelled: bool) -> str:
    """The verdict's key. The text counts beside the sample's key: a longer limit gives the same key another text.

    So does the reasoning, for a verifier that reads it, and a label: the verdict stays what it is when the same text
    becomes the problem's gold answer.
    """
    more = [*(["majority"] if labelled else []), *_reasoning(sample, verifier)]
    said = digest([sample.answer, sample.closed, sample.finish_reason, *more])[:16]
    return verdict_key(sample.key, problem.gold, problem.tests, verifier.name, verifier.version, [settings, said])


def _reasoning(sample: Sample, verifier: Verifier) -> list[Any]:
    return [["reasoning", sample.reasoning]] if getattr(verifier, "reads_reasoning", False) else []


def choice_of(problem: Problem, default: Choice) -> Choice:
    """What grades a problem: the verifier that it names itself, else `default`."""
    if problem.verifier is None:
        return default
    if problem.verifier == default.name and not problem.verifier_settings:
        return default
    return _own(problem.verifier, canonical(problem.verifier_settings), problem.verifier_settings)


_CHOICES: dict[tuple[str, str], Choice] = {}


def _own(name: str, key: str, settings: dict[str, Any]) -> Choice:
    if (name, key) not in _CHOICES:
        adapter: TypeAdapter[Choice] = TypeAdapter(VerifierChoice)
        _CHOICES[name, key] = adapter.validate_python({"verifier": name, **settings})
    return _CHOICES[name, key]


def _group(problem: Problem) -> str:
    return " ".join(part for part in (problem.domain, f"level {problem.level}" if problem.level else "") if part) or "-"


def _rate(counts: Counter[VerdictValue]) -> str:
    graded = counts["correct"] + counts["wrong"] + counts["unparseable"]
    return f"{100 * counts['correct'] / graded:.1f}%" if graded else "-"
