"""The model card: README.md of a model repository, with metadata that the Hub reads, from a release's facts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.publish import licences, markdown, measured, passages, usage
from distill.publish.contents import Contents, contents
from distill.publish.markdown import Markdown, bullets, code
from distill.publish.overlap import OWN
from distill.publish.release import student_of

if TYPE_CHECKING:
    from distill.publish.refusals import Refusal
    from distill.publish.release import Release
    from distill.publish.settings import Config, What

LIBRARIES: dict[tuple[What, ...], str] = {("adapter",): "peft", ("gguf",): "gguf"}
"""What opens a repository that holds these parts alone, as the Hub calls it; else transformers."""


def render(
    release: Release,
    allowed: Sequence[Refusal],
    config: Config,
    parts: Sequence[What],
    names: Mapping[str, Path],
) -> str:
    """README.md of one repository. `parts` lie in it, as the files `names` (by path in the repository).

    `allowed` are the refusals that were found and overridden; the card states them.
    """
    here = contents(release, config, parts, names)
    head = metadata(here, config).to_yaml()
    return f"---\n{head}\n---\n\n{markdown.render('model_card.md.jinja', _facts(here, allowed, config))}"


def metadata(here: Contents, config: Config) -> Any:
    """The card's head, as huggingface_hub's own class."""
    from huggingface_hub import ModelCardData

    release = here.release
    named = release.licence(config)
    known = licences.known(named)
    offered = release.offers(config)
    base = release.base.name if release.base is not None and release.base.on_hub else None
    relation = "adapter" if here.parts == ("adapter",) else "finetune"
    if here.parts == ("gguf",) and "model" in offered:
        base, relation = config.repo, "quantized"
    return ModelCardData(
        license=known.id if known else "other" if named else "unknown",
        license_name=None if known or not named else markdown.one_line(named),
        base_model=base,
        base_model_relation=None if base is None else relation,
        datasets=[config.dataset_repo] if "dataset" in offered and config.dataset_repo else None,
        library_name=LIBRARIES.get(here.parts, "transformers"),
        pipeline_tag="text-generation",
        tags=["distillation", "reasoning", *(["gguf"] if "gguf" in here.parts else [])],
        model_name=here.id.partition("/")[2],
        eval_results=list(_eval_results(here, config)) or None,
    )


def _eval_results(here: Contents, config: Config) -> Iterator[Any]:
    """The student's results on each task, and each GGUF file's greedy accuracy on the first, in percent.

    They go into the card's model-index; the Hub's newer `.eval_results/` takes only benchmarks that it lists itself.
    """
    from huggingface_hub import EvalResult

    for number, task in enumerate(here.release.tasks):
        about, drawn = _about(here.release, task, config), task.get("sampling") or {}
        student = student_of(task)
        for name, found in _figures(student) if student is not None else ():
            settings = {"samples_per_problem": task["samples"]} | {
                key: drawn[key] for key in (*usage.SAMPLED, "max_tokens") if drawn.get(key) is not None
            }
            yield EvalResult(**about, metric_type="accuracy", metric_name=name, **_value(found), metric_args={
                **_interval(found), **settings,
            })  # fmt: skip
        for file in here.ggufs() if number == 0 else ():
            rate = file.entry.get("rate")
            if rate is not None and rate["value"] is not None:
                yield EvalResult(
                    **about, metric_type="accuracy", metric_name=f"pass@1, greedy, {file.name}", **_value(rate),
                    metric_args={**_interval(rate), "problems": rate["items"], "temperature": 0.0},
                )  # fmt: skip


def _figures(student: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and estimates, those without a value left out."""
    found = [("pass@1", student["rate"])]
    for kind in ("pass", "maj"):
        found += [(f"{kind}@{k}", about) for k, about in (student.get(f"{kind}_at") or {}).items() if int(k) > 1]
    return ((name, about) for name, about in found if about["value"] is not None)


def _value(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"metric_value": round(100 * found["value"], 2)}


def _interval(found: Mapping[str, Any]) -> dict[str, Any]:
    if found["low"] is None:
        return {}
    return {"low": round(100 * found["low"], 2), "high": round(100 * found["high"], 2), "confidence": 0.95}


def _about(release: Release, task: Mapping[str, Any], config: Config) -> dict[str, Any]:
    own, name = task["name"] == OWN, markdown.one_line(str(task["name"]))
    return {
        "task_type": "text-generation",
        "task_name": "Text generation",
        "dataset_type": f"{config.repo}-problems" if own else name,
        "dataset_name": f"test problems of {markdown.one_line(release.name)}" if own else name,
        "dataset_split": str((release.results or {}).get("split", "test")) if own else "test",
    }


def _facts(here: Contents, allowed: Sequence[Refusal], config: Config) -> dict[str, Any]:
    """What the template prints."""
    release = here.release
    return {
        "title": here.id.partition("/")[2],
        "summary": _summary(release),
        "allowed": [(code(refusal.name), refusal.why) for refusal in allowed],
        "headline": measured.headline(release),
        "files": measured.files(here) if here.files else "",
        "which": measured.which(here),
        "form": usage.form(here),
        "ways": list(usage.ways(here)),
        "tasks": [measured.task_shown(task) for task in release.tasks],
        "remarks": [*filter(None, [measured.seeds(release)]), *measured.guard(release)],
        "limitations": bullets(list(measured.limitations(here))),
        "making": list(_making(release, config)),
        "teachers": passages.teachers(release),
        "materials": passages.materials(release),
        "funnel": passages.funnel(release),
        "overlap": passages.overlap(release),
        "provenance": passages.provenance(release),
        "stages": passages.stages(release),
        "versions": passages.versions(release),
    }


def _summary(release: Release) -> Markdown:
    taught = [passages.model(one.name, one.on_hub) for one in release.teachers]
    wrote = [code(name) for name in (release.traces.models if release.traces is not None else ())]
    by = markdown.joined((taught or wrote)[:3]) or "an unnamed teacher"
    base = release.base
    onto = "a model" if base is None else passages.model(base.name, base.on_hub, base.revision)
    return Markdown(f"A small reasoning model{_parameters(release)}: {onto}, trained on verified answers of {by}.")


def _parameters(release: Release) -> str:
    """` of 1.3 million parameters`, from the size of a whole file; nothing where there is none."""
    whole = next((file for kind in ("model", "gguf") for file in release.files if file.what == kind), None)
    if whole is None:
        return ""
    n = 8 * whole.entry["bytes"] / whole.entry["bits_per_weight"]
    return f" of {n / 1e9:.3g} billion parameters" if n >= 1e9 else f" of {n / 1e6:.3g} million parameters"


def _making(release: Release, config: Config) -> Iterator[tuple[str, object]]:
    base, training, train = release.base, release.training, release.settings("train")
    if base is not None:
        whose = passages.model(base.name, base.on_hub, base.revision)
        yield "base model", Markdown(f"{whose}, licence: {passages.licence(base.licence)}")
    yield "licence of this release", passages.licence(release.licence(config))
    if train:
        adapter = release.settings("train", "student").get("adapter")
        yield "trained on", _trained_on(training)
        yield "loss", _loss(train)
        yield "weights trained", f"a LoRA adapter ({_plain(adapter)})" if adapter else "all of them"
        yield "schedule", _plain({name: train.get(name) for name in SCHEDULE})
        yield "seed, device, type", f"{training.get('seed')}, {training.get('device')}, {training.get('dtype')}"
    for name, key in (("cross-entropy", "ce"), ("divergence", "kd")):
        first, last = training.get(f"{key}_first"), training.get(f"{key}_last")
        if first is not None and last is not None:
            yield f"{name}, first and last step", f"{first:.3f} and {last:.3f} nats a token"
    yield "answers judged by", passages.verifiers(release)
    yield "cost", passages.cost(release)


SCHEDULE = ("epochs", "learning_rate", "batch_size", "warmup_ratio", "weight_decay", "max_length")
"""Settings of `train:` that the card shows."""


def _trained_on(training: Mapping[str, Any]) -> str:
    if training.get("rows") is None:
        return "not known"
    kinds = {"trace": "thinking and answer", "answer": "answers alone, without thinking"}
    kind = kinds.get(str(training.get("target")), str(training.get("target")))
    tokens, steps = training.get("trained_tokens") or 0, training.get("steps") or 0
    return f"{training['rows']:,} traces ({kind}), {tokens:,} tokens a pass, {steps:,} steps"


def _loss(train: Mapping[str, Any]) -> str:
    loss = train.get("loss")
    if not loss:
        return "cross-entropy on the traces' tokens"
    weight = loss.get("weight")
    shares = f"{1 - weight:g} cross-entropy + {weight:g} " if isinstance(weight, (int, float)) else ""
    rest = _plain({name: value for name, value in loss.items() if name not in ("name", "weight")})
    return f"{shares}{loss.get('name')} against the teacher's log-probabilities ({rest})"


def _plain(settings: Mapping[str, Any]) -> str:
    """Settings in a row; what is not set is left out."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)
