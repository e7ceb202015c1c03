"""What a release is made of: every fact that cards state and refusals look at, read from one arm and seed of a run.

Read from manifests, results and proofs, and from the columns of the training traces; nothing is asked of a model. What
a run does not have (a pulled run lacks what was not published) is None or empty, never an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.core import files, rundir
from distill.core.errors import DistillError
from distill.core.models import EMBEDDED, cached_text, is_embedded, on_hub
from distill.evaluate.metrics import Rate
from distill.export.source import licence_of
from distill.publish import licences, secrets
from distill.publish.overlap import Overlap, overlaps
from distill.publish.settings import HUB_ID

if TYPE_CHECKING:
    from distill.publish.settings import Config, What

STAGES = ("problems", "sample", "import", "verify", "filter", "score", "train", "evaluate", "export")
"""Sections of an experiment that are stages, in the order they run."""

EMBEDDED_LICENCE = "apache-2.0"
"""Of the models that come with this package, and of what they write."""


@dataclass(frozen=True)
class Base:
    """The model that was trained on. `licence` as its card states it, None where nobody could read one."""

    name: str
    on_hub: bool
    revision: str | None
    licence: str | None


@dataclass(frozen=True)
class Teacher:
    """A model that was asked for answers or log-probabilities, and on what terms."""

    name: str
    on_hub: bool
    """Whether its weights were read from the Hub; a served model's name proves nothing."""
    revision: str | None
    licence: str
    distillation: Literal["allowed", "forbidden", "unknown"]
    terms: str
    """What its licence or terms say about training on its answers, with where and when that was read."""
    note: str
    asked: Mapping[str, Any]
    """Sampling settings, system prompt and instruction, by the thinking that problems ask for (`None`: their own)."""


@dataclass(frozen=True)
class Material:
    """Something the training traces were made from: a source of problems, or an imported set of traces."""

    name: str
    licence: str
    kind: Literal["problems", "traces"]
    traces: int
    problems: int
    revision: str = ""


@dataclass(frozen=True)
class Traces:
    """The traces that were trained on, counted."""

    file: Path
    rows: int
    problems: int
    materials: tuple[Material, ...]
    labels: Mapping[str, int]
    """What the traces were held against: gold, majority, rationalised (gold was given as a hint), none."""
    verdicts: Mapping[str, int]
    models: Mapping[str, int]
    domains: Mapping[str, int]
    unfinished: int
    """Cut at a limit, or without an end of thinking."""


@dataclass(frozen=True)
class ExportFile:
    """One exported file or folder with its entry in proof.json."""

    entry: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The format's name, such as `gguf-q8_0`."""
        return str(self.entry["name"])

    @property
    def path(self) -> str:
        """Place in the export stage's folder."""
        return str(self.entry["file"])

    @property
    def what(self) -> What:
        """The part of a release that it belongs to."""
        if self.name.startswith("gguf"):
            return "gguf"
        return "adapter" if self.name.endswith("-adapter") else "model"

    def missing_proof(self) -> str | None:
        """What tiers 1 and 2 do not prove of it, in words; None: both ran and hold."""
        absent = [str(tier) for tier in (1, 2) if tier not in self.entry["tiers"]]
        if absent:
            return f"tier {' and '.join(absent)} of its proof did not run"
        failed = [check for check in self.entry["checks"] if check["tier"] in (1, 2) and check["missed"]]
        return f"{failed[0]['name']}: {failed[0]['missed']}" if failed else None


@dataclass(frozen=True)
class Release:
    """One arm and seed of a run, as cards and refusals see it."""

    name: str
    run: Path
    arm: str
    seed: int
    folders: Mapping[str, Path]
    """Stage folders by stage, in order; only stages that are done."""
    manifests: Mapping[str, Mapping[str, Any]]
    missing: tuple[str, ...]
    """Stages that the experiment asks for and that are not done."""
    base: Base | None
    teacher: Teacher | None
    scorer: Teacher | None
    """Who gave log-probabilities to traces, where that was a stage of its own."""
    traces: Traces | None
    results: Mapping[str, Any] | None
    files: tuple[ExportFile, ...]
    overlaps: tuple[Overlap, ...]
    verifiers: Mapping[str, int]
    """`name version N` of the verifiers, with how many verdicts each gave."""
    seeds: Mapping[str, Rate] = field(default_factory=dict)
    """The student's rate on the first task by seed, where this arm has several."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The train stage's own report, and from contract.json how its rows look."""
    context: int | None = None
    """Longest context of the student, in tokens."""
    thinks: bool = True
    """Whether it was trained to think before it answers."""

    def settings(self, stage: str, section: str | None = None) -> Mapping[str, Any]:
        """The recorded settings of a stage's section (its own, unless named); empty where the stage is not there."""
        found: Mapping[str, Any] = self.manifests.get(stage, {}).get("settings", {}).get(section or stage) or {}
        return found

    def counts(self, stage: str) -> Mapping[str, Any]:
        """What a stage counted; empty where it is not there."""
        found: Mapping[str, Any] = self.manifests.get(stage, {}).get("counts") or {}
        return found

    @property
    def tasks(self) -> Sequence[Mapping[str, Any]]:
        """Tasks of the evaluation, the experiment's own first."""
        return () if self.results is None else tuple(self.results.get("tasks", ()))

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """All models that taught, each once."""
        found = [teacher for teacher in (self.teacher, self.scorer) if teacher is not None]
        return tuple({teacher.name: teacher for teacher in found}.values())

    def offers(self, config: Config) -> tuple[What, ...]:
        """What goes out: asked for, and there."""
        there = {file.what for file in self.files}
        if self.traces is not None:
            there.add("dataset")
        order: tuple[What, ...] = ("model", "adapter", "gguf", "dataset")
        return tuple(what for what in order if what in there and config.wants(what))

    def sources(self, dataset: bool) -> list[tuple[str, str | None, licences.Use]]:
        """Name, licence and use of everything whose licence bears on the dataset, or on the model."""
        found: list[tuple[str, str | None, licences.Use]] = []
        if not dataset and self.base is not None:
            found.append((f"base model {self.base.name}", self.base.licence, "weights"))
        use: licences.Use = "data" if dataset else "training"
        for material in self.traces.materials if self.traces is not None else ():
            found.append((f"{material.kind} of {material.name or 'no named source'}", material.licence, use))
        return found

    def licence(self, config: Config, dataset: bool = False) -> str | None:
        """The licence of the dataset, or of model files: the chosen one, else one that all sources allow, else None."""
        if config.licence is not None:
            chosen = licences.known(config.licence)
            return config.licence if chosen is None else chosen.id
        fitting = licences.fitting([(text, use) for _, text, use in self.sources(dataset)])
        return None if fitting is None else fitting.id


def gather(run: Path, arm: str | None, seed: int | None) -> Release:
    """Read one arm and seed of a run folder; None takes the first of each.

    Raises DistillError where the run has no such arm or seed.
    """
    index = rundir.read_index(run)
    arm, chosen = _chosen(run, index, arm, seed)
    stages: Mapping[str, Any] = index["arms"][arm][chosen]
    folders = {name: run / stages[name]["folder"] for name in STAGES if name in stages}
    done = {name: rundir.finished(folder, stages[name]["key"]) for name, folder in folders.items()}
    manifests = {name: manifest.data for name, manifest in done.items() if manifest is not None}
    folders = {name: folders[name] for name in manifests}
    experiment = _json(run / "experiment.json") or {}
    traces = _traces(folders, manifests)
    results = _json(folders["evaluate"] / "results.json") if "evaluate" in folders else None
    return Release(
        name=str(index["name"]),
        run=run,
        arm=arm,
        seed=int(chosen),
        folders=folders,
        manifests=manifests,
        missing=tuple(name for name in _asked_for(experiment, arm) if name not in manifests),
        base=_base(manifests),
        teacher=_teacher(manifests, "sample"),
        scorer=_teacher(manifests, "score"),
        traces=traces,
        results=results,
        files=tuple(_exported(folders)),
        overlaps=tuple(overlaps(folders, None if traces is None else traces.file, results)),
        verifiers=_verifiers(folders),
        seeds=_seeds(run, index["arms"][arm]),
        training=_training(folders),
        context=_context(folders),
        thinks=_training(folders).get("target", "trace") != "answer",
    )


def student_of(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The student's entry among a task's results."""
    return model_of(task, "student")


def model_of(task: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A model's entry among a task's results, by its name in the experiment."""
    found: Mapping[str, Any] | None = next((model for model in task["models"] if model["name"] == name), None)
    return found


def _chosen(run: Path, index: Mapping[str, Any], arm: str | None, seed: int | None) -> tuple[str, str]:
    arms = index["arms"]
    if not arms:
        raise DistillError(f"{run}: no stage of it is done; `distill run` its experiment first")
    arm = next(iter(arms)) if arm is None else arm
    if arm not in arms:
        raise DistillError(f"{run}: no arm `{arm}`; it has {', '.join(arms)}")
    chosen = next(iter(arms[arm])) if seed is None else str(seed)
    if chosen not in arms[arm]:
        raise DistillError(f"{run}: arm `{arm}` has no seed {chosen}; it has {', '.join(arms[arm])}")
    return arm, chosen


def _asked_for(experiment: Mapping[str, Any], arm: str) -> Iterator[str]:
    """Stages that the resolved experiment has for this arm; a section that asks for nothing is none."""
    sections: Mapping[str, Any] = experiment.get("arms", {}).get(arm, {})
    for name in STAGES:
        if sections.get(name) is not None and not (name == "export" and not sections[name].get("formats", True)):
            yield name


def _base(manifests: Mapping[str, Mapping[str, Any]]) -> Base | None:
    about = next((m["settings"]["student"] for m in manifests.values() if m["settings"].get("student")), None)
    if about is None:
        return None
    name, revision = str(about["model"]), about.get("revision")
    kept = manifests.get("export", {}).get("counts", {}).get("base_licence")
    return Base(secrets.model_name(name), _on_hub(name), revision, kept or _licence_here(name, revision))


def _on_hub(name: str) -> bool:
    return on_hub(name) and HUB_ID.fullmatch(name) is not None


def _licence_here(name: str, revision: str | None) -> str | None:
    """What the model's own card says, where the model is on this machine; the network is left alone."""
    if is_embedded(name):
        return EMBEDDED_LICENCE
    try:
        folder = cached_text(name, revision)
    except DistillError:
        return None  # a folder that is not there any more
    return None if folder is None else licence_of(folder)


def _teacher(manifests: Mapping[str, Mapping[str, Any]], stage: str) -> Teacher | None:
    manifest = manifests.get(stage)
    about = None if manifest is None else manifest["settings"].get("teacher")
    if manifest is None or about is None:
        return None
    counts = manifest["counts"]
    family = counts.get("family")
    if family is None and str(about["model"]) in ("embedded", *EMBEDDED):  # a run from before families were kept
        family = {"licence": EMBEDDED_LICENCE, "distillation": "allowed"}
    family = family or {}
    return Teacher(
        name=secrets.model_name(str(about["model"])),
        on_hub=_on_hub(str(about["model"])) and (about.get("engine") or {}).get("engine") in ("transformers", "vllm"),
        revision=about.get("revision"),
        licence=str(family.get("licence", "unknown")),
        distillation=family.get("distillation", "unknown"),
        terms=str(family.get("notice") or counts.get("terms") or "Nothing is known of its terms."),
        note=str(family.get("note", "")),
        asked=counts.get("asked_as") or {},
    )


def _traces(folders: Mapping[str, Path], manifests: Mapping[str, Mapping[str, Any]]) -> Traces | None:
    """The traces that the student was trained on; those kept where nothing was trained yet."""
    if "filter" not in folders:
        return None
    control = manifests.get("train", {}).get("settings", {}).get("train", {}).get("traces") == "control"
    path = folders["filter"] / ("control.parquet" if control else "traces.parquet")
    return count(path) if path.is_file() else None


def count(path: Path) -> Traces:
    """Count a file of traces, column by column and without its texts."""
    import pyarrow.parquet as pq

    counted: dict[str, Counter[str]] = {n: Counter() for n in ("label_source", "verdict", "model_name", "domain")}
    materials: dict[tuple[str, str, str, str], tuple[Counter[str], int]] = {}
    problems: set[str] = set()
    rows = unfinished = 0
    there = set(pq.read_schema(path).names)
    columns = ("problem_id", "source", "licence", "origin", "finish_reason", "closed", *counted)
    wanted = [name for name in columns if name in there]
    for batch in pq.ParquetFile(path).iter_batches(columns=wanted):
        for row in batch.to_pylist():
            rows += 1
            problems.add(row["problem_id"])
            unfinished += row["finish_reason"] != "stop" or not row["closed"]
            for name, values in counted.items():
                values[str(row.get(name) or "none")] += 1
            origin = json.loads(row.get("origin") or "{}")
            keys = [("problems", row["source"], row["licence"], "")]
            if origin.get("dataset"):
                own = (str(origin.get("licence") or ""), str(origin.get("revision") or ""))
                keys.append(("traces", str(origin["dataset"]), *own))
            for key in keys:
                seen, traces = materials.get(key, (Counter(), 0))
                seen[row["problem_id"]] += 1
                materials[key] = (seen, traces + 1)
    found = tuple(
        Material(secrets.model_name(name), licence, "problems" if kind == "problems" else "traces", n, len(seen), at)
        for (kind, name, licence, at), (seen, n) in sorted(materials.items())
    )
    return Traces(
        path, rows, len(problems), found, counted["label_source"], counted["verdict"], counted["model_name"],
        counted["domain"], unfinished,
    )  # fmt: skip


def _exported(folders: Mapping[str, Path]) -> Iterator[ExportFile]:
    proof = _json(folders["export"] / "proof.json") if "export" in folders else None
    for entry in (proof or {}).get("files", ()):
        yield ExportFile(entry)


def _verifiers(folders: Mapping[str, Path]) -> Mapping[str, int]:
    import pyarrow.parquet as pq

    path = folders["verify"] / "verdicts.parquet" if "verify" in folders else None
    if path is None or not path.is_file():
        return {}
    table = pq.read_table(path, columns=["verifier", "verifier_version"])
    pairs = zip(table["verifier"].to_pylist(), table["verifier_version"].to_pylist(), strict=True)
    found = Counter(f"{name} version {version}" for name, version in pairs if name)
    return dict(found.most_common())


def _seeds(run: Path, seeds: Mapping[str, Any]) -> Mapping[str, Rate]:
    found: dict[str, Rate] = {}
    for seed, stages in seeds.items() if len(seeds) > 1 else ():
        results = _json(run / stages["evaluate"]["folder"] / "results.json") if "evaluate" in stages else None
        for task in (results or {}).get("tasks", ())[:1]:
            if (student := student_of(task)) is not None:
                found[seed] = Rate(**student["rate"])
    return found


def _training(folders: Mapping[str, Path]) -> Mapping[str, Any]:
    if "train" not in folders:
        return {}
    contract = _json(folders["train"] / "contract.json") or {}
    return {**contract, **(_json(folders["train"] / "report.json") or {})}


def _context(folders: Mapping[str, Path]) -> int | None:
    for pattern in ("train/student/config.json", "export/safetensors*/*/config.json"):
        stage, _, rest = pattern.partition("/")
        for path in sorted(folders[stage].glob(rest)) if stage in folders else ():
            if found := (_json(path) or {}).get("max_position_embeddings"):
                return int(found)
    return None


def _json(path: Path) -> Any:
    return files.read_json(path) if path.is_file() else None
