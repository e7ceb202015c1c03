"""`export`: writes the student in each format that is asked for, proves every file, and says how to run it.

Writes one folder a format and proof.json, with one entry a file: size, types, what was checked, how its greedy answers
compare with the student's own. Speeds go to timing.json, the runtime's logs stay beside it. A missed bound is told, and
ends with exit code 3.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, PositiveInt, TypeAdapter, model_validator

from distill.core import files, tables
from distill.core.config import Settings
from distill.core.errors import ConfigError, DistillError
from distill.core.models import EMBEDDED, base_of, resolve
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import Problem, Sample, Sampling, Verdict
from distill.core.stage import Report, StageRun, say

if TYPE_CHECKING:
    from distill.export.divergence import Text
    from distill.export.proof import Check
    from distill.export.source import Bounds, Format, Source, Written

VERSION = 2

HELD_OUT = 32
"""Most answers on which distributions are compared."""

FormatChoice = Annotated[Choice, ChoiceOf("distill.export.formats", "format")]
EngineChoice = Annotated[Choice, ChoiceOf("distill.engines", "engine")]


class Config(Settings):
    """Settings of `export:`; a plain list is its `formats`."""

    formats: list[FormatChoice]
    """What is written: `safetensors`, `{format: gguf, type: q8_0}` and so on."""
    problems: PositiveInt = 500
    """On how many of the evaluated problems each file answers greedily beside the student."""
    calibration_tokens: PositiveInt = 100_000
    """Tokens of kept traces that an importance matrix (`imatrix: traces`) is measured on."""
    adapter_base: Literal["trained", "stored"] = "trained"
    """What an adapter that learnt on a base in 4 bits is laid over: that base (what was trained), or the base as its
    folder stores it. The other choice is measured beside it."""
    engine: EngineChoice = Field(default="transformers", validate_default=True)
    """What answers for the student itself."""

    @model_validator(mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return {"formats": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _own_folders(self) -> Config:
        names = [choice.module().build(choice.config).name for choice in self.formats]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two of them would be written into {twice}; an experiment's arms can export both")
        return self

    @property
    def asks_nothing(self) -> bool:
        """`export: []` is no stage."""
        return not self.formats


@dataclass(frozen=True)
class Greedy:
    """Greedy answers to the same problems, in their order, and what they are worth."""

    samples: list[Sample]
    verdicts: list[Verdict]


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """An importance matrix that is not there is refused before anything runs, not after the training."""
    if "export" not in sections:
        return None
    try:
        _matrix_files(cast(Config, sections["export"]).formats)
    except ConfigError as error:
        return ("export",), str(error)
    return None


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """Content of the importance matrices that are named as files."""
    found = _matrix_files(cast(Config, sections["export"]).formats)
    return {name: files.sha256_file(path) for name, path in found.items()}


def _matrix_files(formats: Sequence[Choice]) -> dict[str, Path]:
    named = [getattr(choice.config, "imatrix", "none") for choice in formats]
    paths = {name: Path(name).expanduser() for name in named if name not in ("none", "traces")}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise ConfigError(f"imatrix `{missing[0]}`: no such file; it is `none`, `traces` or a file of llama-imatrix")
    return paths


def run(stage: StageRun) -> Report:
    """Export and prove the student."""
    from distill.export.source import Source, licence_of

    config = cast(Config, stage.sections["export"])
    base = str(getattr(stage.sections["student"], "model", ""))
    metadata = {"name": "student", "base_model": base}
    if base and (licence := licence_of(resolve(base))):
        metadata["licence"] = licence
    logs = stage.out / "logs"
    source = Source(
        stage.inputs["train"] / "student",
        "student",
        logs,
        metadata=metadata,
        onto=config.adapter_base,
        traces=stage.inputs["filter"] / "traces.parquet",
        calibration_tokens=config.calibration_tokens,
    )
    test = _problems(stage, config)
    sampling = _sampling(stage.inputs["evaluate"])
    own: Greedy | None = None
    entries = []
    for choice in config.formats:
        made = choice.module().build(choice.config)
        stage.say(f"{made.name} needs {made.needs(source)}")
        entry, written = export_one(made, source, stage.out)
        if written.runs_on != config.engine.name and test:
            own = own or greedy(test, sampling, config.engine, str(source.reference), stage, "student")
            if texts := held_out(own):
                entry = with_checks(entry, made.compare(source, written, texts, held_out=True))
            engine = _exact(written)
            answers = greedy(test, sampling, engine, str(written.path), stage, written.name)
            entry = with_answers(entry, own, answers, test, made.bounds())
        entries.append(entry)
    told = finish(stage.out, entries, len(test))
    return replace(told, data={**told.data, "base_licence": metadata.get("licence")})  # for whoever publishes the run


def export_folder(
    model: str,
    out: Path,
    formats: Sequence[Choice],
    *,
    adapter: str | None = None,
    name: str | None = None,
    onto: Literal["trained", "stored"] = "trained",
    tier_3: bool | None = None,
) -> Report:
    """What `distill export MODEL_DIR --format F --out DIR` does: write and prove, without an experiment.

    `model` and `adapter` are what `resolve` takes. `name` is the files' name; None takes the folder's. `onto` is the
    setting `adapter_base`. `tier_3` None compares whole distributions, on the model's own answers, where the model is
    small (`WHOLE_UP_TO` weights).
    Raises ConfigError, before anything is written, for what is no model folder.
    """
    from distill.export.proof import WHOLE_UP_TO
    from distill.export.source import Source, licence_of
    from distill.gguf.adapter import open_weights

    try:
        folder, over = resolve(model), None if adapter is None else resolve(adapter)
        if not folder.is_dir():
            raise DistillError(f"{folder}: export takes a model folder, not a file")
        open_weights(folder, over)
        _matrix_files(formats)
        if any(getattr(choice.config, "imatrix", "") == "traces" for choice in formats):
            raise DistillError("imatrix `traces` goes with an experiment; name a file of llama-imatrix")
    except DistillError as error:
        raise ConfigError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    files.remove_partials(out)
    called = name or (model if model in EMBEDDED else (over or folder).resolve().name)
    metadata = {"name": called}
    if licence := licence_of(folder):
        metadata["licence"] = licence
    if base := base_of(folder) or (model if over is not None else None):
        metadata["base_model"] = base
    source = Source(folder, called, out / "logs", adapter=over, onto=onto, metadata=metadata)
    entries = []
    for choice in formats:
        made = choice.module().build(choice.config)
        say(f"{'export':<9} {made.name} needs {made.needs(source)}")
        entry, written = export_one(made, source, out)
        if written.runs_on != "transformers" and (source.n_weights <= WHOLE_UP_TO if tier_3 is None else tier_3):
            entry = with_checks(entry, made.compare(source, written, source.own_texts, held_out=False))
        entries.append(entry)
    return finish(out, entries, 0)


def format_choice(name: str, **settings: Any) -> Choice:
    """The format a command line asks for: `format_choice("gguf", type="q4_k_m")`; settings that are None are left out.

    Raises ConfigError for an unknown format or setting.
    """
    from pydantic import ValidationError

    adapter: TypeAdapter[Choice] = TypeAdapter(FormatChoice)
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        return adapter.validate_python({"format": name, **given})
    except ValidationError as error:
        first = error.errors()[0]
        setting = str(first["loc"][-1]) if first["loc"] else ""
        option = {"dtype": "--type", "adapter": "--adapter-alone"}.get(setting, f"--{setting}")
        if first["type"] == "unknown_setting":
            raise ConfigError(f"export: the format {name} takes no {option}") from error
        option, got = (f"{option}: ", f"; got {first['input']!r}") if setting else ("", "")
        raise ConfigError(f"export: {option}{first['msg'].removeprefix('Value error, ')}{got}") from error


def export_one(made: Format, source: Source, out: Path) -> tuple[dict[str, Any], Written]:
    """Write one format into its folder of `out`, prove tiers 1 and 2; its entry of proof.json, and what was written."""
    folder = out / made.name
    if folder.exists():
        shutil.rmtree(folder)  # of an earlier run into the same place: half of it may be from another model
    folder.mkdir(parents=True)
    written = made.write(source, folder)
    entry: dict[str, Any] = {
        "name": written.name,
        "file": str(written.path.relative_to(out)),
        "bytes": written.n_bytes,
        "bits_per_weight": round(written.bits_per_weight, 3),
        "run": written.run,
        "types": dict(written.types),
        "fallback": written.fallback,
        "tiers": [],
        "missed": [],
        "checks": [],
        "notes": list(written.notes),
    }
    return with_checks(entry, made.prove(source, written)), written


CLOCK = "tokens_per_s"
"""A figure that differs from run to run: it goes to timing.json, which is no part of the stage's content."""
FIGURES = ("max_logprob_diff", "kl", "top_1", CLOCK)
"""What the table takes from the checks."""


def with_checks(entry: dict[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """The entry with what these checks found."""
    found = {name: check.figures[name] for check in checks for name in FIGURES if name in check.figures}
    return {
        **entry,
        **found,
        "tiers": sorted({*entry["tiers"], *(check.tier for check in checks)}),
        "missed": [*entry["missed"], *(f"{check.name}: {check.missed}" for check in checks if check.missed)],
        "checks": [*entry["checks"], *(_as_data(check) for check in checks)],
        "notes": [*entry["notes"], *(note for check in checks for note in check.notes)],
    }


def _as_data(check: Check) -> dict[str, Any]:
    timeless = {name: value for name, value in check.figures.items() if name != CLOCK}
    return asdict(replace(check, figures=timeless))


def held_out(own: Greedy) -> list[Text]:
    """The student's own accepted answers to problems it was not trained on, as ids; all of them where none was.

    Nothing where the engine gave no ids.
    """
    from distill.export.divergence import Text

    texts: dict[bool, list[Text]] = {True: [], False: []}
    for sample, verdict in zip(own.samples, own.verdicts, strict=True):
        if sample.prompt_ids and sample.completion_ids:
            prompt = (*sample.prompt_ids, *(sample.prefill_ids or ()))
            texts[verdict.value == "correct"].append(Text((*prompt, *sample.completion_ids), len(prompt)))
    return (texts[True] or texts[False])[:HELD_OUT]


def greedy(
    problems: Sequence[Problem], sampling: Sampling, engine: Choice, model: str, stage: StageRun, label: str
) -> Greedy:
    """Greedy answers of one model (through the ledger, as all answers), and the experiment's verdicts on them."""
    from distill import rollout
    from distill.stages import verify

    verifier = cast(verify.Config, stage.sections["verify"]).verifier
    drawn = rollout.collect(
        problems, 1, sampling, engine=engine, model=model, workspace=stage.workspace, label=f"prove {label}"
    )
    verdicts = verify.grade({p.id: p for p in problems}, drawn, verifier, workspace=stage.workspace)
    return Greedy(drawn, verdicts)


def with_answers(
    entry: dict[str, Any], own: Greedy, file: Greedy, problems: Sequence[Problem], bounds: Bounds
) -> dict[str, Any]:
    """The entry with tier 3: rates of both, the share of problems answered with the same text, and missed bounds."""
    from distill.evaluate import metrics, scores
    from distill.evaluate.stage import summarise

    rate, own_rate = (
        metrics.pass_rate({s.problem_id: [v.value] for s, v in zip(g.samples, g.verdicts, strict=True)})
        for g in (file, own)
    )
    equal = sum(map(_same, own.samples, file.samples)) / len(own.samples)
    by_id = {problem.id: problem for problem in problems}
    lines = [
        scores.score(entry["name"], by_id[s.problem_id], s, v) for s, v in zip(file.samples, file.verdicts, strict=True)
    ]
    missed = list(entry["missed"])
    if rate.value is None or own_rate.value is None:
        missed.append("answers: nothing could be graded")
    elif bounds.points is not None and abs(rate.value - own_rate.value) > bounds.points / 100:
        missed.append(
            f"answers: {100 * rate.value:.1f}% correct where the student has {100 * own_rate.value:.1f}%; "
            f"the bound is {bounds.points:g} points"
        )
    if bounds.equal_share is not None and equal < bounds.equal_share:
        due = f"{100 * bounds.equal_share:g}%"
        missed.append(f"answers: {100 * equal:.1f}% are word for word the student's; the bound is {due}")
    summary = summarise(lines)
    return {
        **entry,
        "tiers": sorted({*entry["tiers"], 3}),
        "missed": missed,
        "accuracy": str(rate),
        "student_accuracy": str(own_rate),
        "student_rate": asdict(own_rate),
        "greedy_equal": round(equal, 4),
        "rate": asdict(rate),
        "thinking_tokens": summary["thinking_tokens"],
        "outcomes": summary["outcomes"],
    }


def _same(a: Sample, b: Sample) -> bool:
    """Token for token, where both engines gave ids: a text may show or hide control tokens by the engine's taste."""
    if a.completion_ids is not None and b.completion_ids is not None:
        return a.completion_ids == b.completion_ids
    return a.text == b.text


def finish(out: Path, entries: list[dict[str, Any]], problems: int) -> Report:
    """Write proof.json and timing.json, and say what was proved."""
    data: dict[str, Any] = {"files": entries, "problems": problems}
    timeless = [{name: value for name, value in entry.items() if name != CLOCK} for entry in entries]
    files.write_json(out / "proof.json", {**data, "files": timeless})
    files.write_json(out / "timing.json", {entry["name"]: {CLOCK: entry[CLOCK]} for entry in entries if CLOCK in entry})
    rows = [_row(entry) for entry in entries]
    faults = [f"{entry['name']}: {missed}" for entry in entries for missed in entry["missed"]]
    proved = "all proved" if not faults else f"{len(faults)} bounds missed"
    names = ", ".join(entry["name"] for entry in entries)
    return Report(
        summary=f"{names}: {proved}; run one with `{entries[-1]['run']}` in {out.name}" if entries else "nothing",
        rows=rows,
        data=data,
        missed="; ".join(faults) or None,
    )


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    forced = f", {entry['fallback']} by row length" if entry["fallback"] else ""
    return {
        "file": entry["file"],
        "size": f"{entry['bytes'] / 1e6:.2f} MB",
        "bits a weight": f"{entry['bits_per_weight']:.2f}",
        "types": " ".join(f"{kind} {count}" for kind, count in entry["types"].items()) + forced,
        "tiers": " ".join(map(str, entry["tiers"])),
        "log-prob diff": _shown(entry.get("max_logprob_diff"), "{:.1e}"),
        "KL": _shown(entry.get("kl"), "{:.1e}"),
        "top-1": _shown(entry.get("top_1"), "{:.1%}"),
        "same text": _shown(entry.get("greedy_equal"), "{:.1%}"),
        "accuracy": entry.get("accuracy", "-"),
        "tokens/s": _shown(entry.get("tokens_per_s"), "{:.0f}"),
        "proved": "yes" if not entry["missed"] else "NO",
    }


def _shown(figure: float | None, form: str) -> str:
    return "-" if figure is None else form.format(figure)


def _problems(stage: StageRun, config: Config) -> list[Problem]:
    """The first so many of the experiment's own problems, of the split that was evaluated."""
    results = files.read_json(stage.inputs["evaluate"] / "results.json")
    path = stage.inputs["problems"] / "problems.parquet"
    found = [p for p in tables.stream(path, Problem) if p.split == results["split"]]
    return found[: config.problems]


def _sampling(evaluated: Path) -> Sampling:
    """Greedy, with the limit and the template's form that the student was evaluated with."""
    tasks = files.read_json(evaluated / "results.json")["tasks"]
    task = next((task for task in tasks if task["name"] == "problems"), tasks[0])
    of_student = [entry["thinking"] for entry in task["models"] if entry["name"] == "student"]
    thinking = of_student[0] if of_student else task["sampling"]["thinking"]
    return Sampling(temperature=0.0, max_tokens=task["sampling"]["max_tokens"], thinking=thinking)


def _exact(written: Written) -> Choice:
    """The engine in the setting that adds no noise of its own: float32 KV cache, no flash attention."""
    from distill.export.runtime import threads_for

    adapter: TypeAdapter[Choice] = TypeAdapter(EngineChoice)
    return adapter.validate_python({"engine": written.runs_on, "exact": True, "threads": threads_for(written.path)})
