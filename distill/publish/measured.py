"""What was measured, as tables and sentences of a model card: results, exported files, and what they leave open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.evaluate import compare
from distill.evaluate.metrics import Difference, Mean, Rate, Ratio
from distill.publish import passages, secrets
from distill.publish.contents import ROOT, Contents, sound
from distill.publish.markdown import Markdown, code, inline, joined, table
from distill.publish.overlap import OWN
from distill.publish.release import model_of, student_of
from distill.publish.usage import drawing

if TYPE_CHECKING:
    from distill.publish.release import ExportFile, Release

NOTHING = "–"
"""Of a cell that has no figure."""


@dataclass(frozen=True)
class TaskShown:
    """One task of the evaluation: a heading, how it was drawn, tables, and lines of text."""

    title: str
    how: str
    models: Markdown
    pairs: Markdown | str
    lines: tuple[str, ...]


def name_of(task: Mapping[str, Any]) -> str:
    """What a task is called in a sentence."""
    return "its own test problems" if task["name"] == OWN else str(task["name"])


def headline(release: Release) -> str:
    """The first task's rates in one line."""
    task = release.tasks[0] if release.tasks else None
    if task is None or student_of(task) is None:
        return ""
    found = {name: model_of(task, name) for name in ("student", "base", "teacher")}
    rates = [f"{name} {Rate(**about['rate'])}" for name, about in found.items() if about is not None]
    what = "test problems of its own" if task["name"] == OWN else f"problems of {task['name']}"
    return f"Correct answers to {task['problems']:,} {what}, with 95% intervals: {', '.join(rates)}."


def task_shown(task: Mapping[str, Any]) -> TaskShown:
    """Everything that is said of a task."""
    drawn, verifier = task.get("sampling") or {}, task.get("verifier") or {}
    judged = verifier.get("verifier", "") if isinstance(verifier, Mapping) else str(verifier)
    each = f"{task['samples']} answer{'s' if task['samples'] > 1 else ''} each"
    limit = f", at most {drawn['max_tokens']:,} tokens" if drawn.get("max_tokens") else ""
    how = [
        f"{task['problems']:,} problems, {each}, drawn {drawing(drawn)}{limit}",
        *([f"graded by the verifier {judged}"] if judged else []),
        *([f"licence of the problems: {task['licence']}"] if task.get("licence") else []),
    ]
    title = "The experiment's own test problems" if task["name"] == OWN else str(task["name"])
    return TaskShown(title, "; ".join(how) + ".", _models(task), _pairs(task), tuple(_lines(task)))


def _models(task: Mapping[str, Any]) -> Markdown:
    models = task["models"]
    most = max((int(k) for model in models for k in model.get("pass_at") or {}), default=1)
    columns = [
        f"{kind}@{most}" for kind in ("pass", "maj") if most > 1 and any(model.get(f"{kind}_at") for model in models)
    ]
    parted = any(model.get("by_part") for model in models)
    heads = [
        "model", "pass@1 [95%]", *columns, *(["by instruction"] if parted else []), "thinking tokens", "cut",
        "no answer", "not counted",
    ]  # fmt: skip
    rows = []
    for model in models:
        outcomes, rate, answers = model["outcomes"], Rate(**model["rate"]), model["answers"]
        rows.append((
            secrets.model_name(model["name"]) + (" (without thinking)" if model.get("thinking") is False else ""),
            str(rate),
            *(_estimate((model.get(f"{column.partition('@')[0]}_at") or {}).get(str(most))) for column in columns),
            *([str(Rate(**model["by_part"])) if model.get("by_part") else NOTHING] if parted else []),
            str(Mean(**model["thinking_tokens"])),
            passages.share(outcomes["truncated"], answers),
            passages.share(outcomes["unfinished"] + outcomes["no answer"], answers),
            f"{rate.excluded:,}",
        ))  # fmt: skip
    return table(heads, rows, right=range(len(heads) - 3, len(heads)))


def _pairs(task: Mapping[str, Any]) -> Markdown | str:
    rows = [
        (
            f"{secrets.model_name(pair['a'])} − {secrets.model_name(pair['b'])}",
            str(Difference(**pair["difference"])),
            compare.p_text(pair.get("p_holm")),
            pair["verdict"],
        )
        for pair in task.get("pairs") or ()
        if "student" in (pair["a"], pair["b"])
    ]
    return table(["pair", "difference [95%]", "p", "shown"], rows, right=(2,)) if rows else ""


def _lines(task: Mapping[str, Any]) -> Iterator[str]:
    ratio = (task.get("ratios") or {}).get("student/teacher")
    if ratio and ratio["value"] is not None:
        yield f"The student reaches {Ratio(**ratio)} of its teacher's rate."
    for model in task["models"]:
        for key, name in (("instruction", "instruction"), ("system_prompt", "system prompt")):
            if model.get(key):
                yield f"{secrets.model_name(model['name'])} was asked with the {name} “{model[key]}”."
    for forced in (student_of(task) or {}).get("forced") or ():
        budget, waits = forced.get("budget"), forced.get("waits")
        how = f"thinking cut at {budget:,} tokens" if budget is not None else f"{waits} further rounds of thinking"
        yield f"With {how}: {Rate(**forced['rate'])} correct."


def guard(release: Release) -> list[str]:
    """What the guard against forgetting found, a line a task."""
    found = (release.results or {}).get("guard") or {}
    return [
        f"Guard against forgetting, {name_of(task)}: {Difference(**task['difference'])} from base to student: "
        f"{task['verdict']}; a loss of {found['points']:g} points was allowed."
        for task in found.get("tasks", ())
    ]


def seeds(release: Release) -> str:
    """The rates of all seeds of this arm: whether the published one is the best of several."""
    if len(release.seeds) < 2:
        return ""
    said = ", ".join(f"seed {seed}: {rate}" for seed, rate in release.seeds.items())
    return f"This is seed {release.seed} of the {len(release.seeds)} that were trained; {said}."


def limitations(contents: Contents) -> Iterator[str]:
    """What was measured badly, and what was not measured."""
    release = contents.release
    guarded = ((release.results or {}).get("guard") or {}).get("tasks", ())
    names = list(dict.fromkeys(name_of(task) for task in (*release.tasks, *guarded)))
    yield (
        f"What was measured is {joined(names)}, and nothing else: no other subject or language, no long conversation, "
        "nothing about safety."
        if names
        else "Nothing was measured: how good it is, nobody knows."
    )
    for task in release.tasks:
        yield from _weaknesses(task)
    absent = [name for name in ("base", "teacher") if all(model_of(task, name) is None for task in release.tasks)]
    if release.tasks and absent:
        yield f"Not measured beside it: {joined(absent)}."
    unanswered = [file.name for file in contents.ggufs() if not file.entry.get("rate")]
    if unanswered:
        yield f"No answers were drawn from {joined(unanswered)}."
    if len(release.seeds) < 2 and "train" in release.folders:
        yield "It was trained once, with one seed; another seed may come out better or worse."
    yield from passages.limits_of_data(release)


def _weaknesses(task: Mapping[str, Any]) -> Iterator[str]:
    student = student_of(task)
    if student is None:
        yield f"The student was not measured on {name_of(task)}."
        return
    outcomes, answers, where = student["outcomes"], student["answers"], name_of(task)
    for outcome, said in (
        ("truncated", "were cut at the limit"),
        ("unfinished", "never ended their thinking"),
        ("no answer", "gave no answer that could be read"),
    ):
        if outcomes[outcome]:
            part = passages.share(outcomes[outcome], answers)
            yield f"On {where}, {part} of its answers {said}; they count as wrong."
    if student.get("loops"):
        yield f"On {where}, {passages.share(int(student['loops']), answers)} of its answers repeat themselves."
    rates = {domain: Rate(**rate) for domain, rate in (student.get("by_domain") or {}).items() if domain}
    graded = {domain: rate.value for domain, rate in rates.items() if rate.value is not None}
    if len(set(graded.values())) > 1:
        worst = min(graded, key=lambda domain: graded[domain])
        yield f"On {where} it is weakest in “{worst}”: {rates[worst]}."


def files(contents: Contents) -> Markdown:
    """The table of exported files: size, damage by quantisation, and proof."""
    heads = [
        "file", "size", "bits a weight", "KL", "top-1", "correct, greedy [95%]", "proof tiers", "bounds hold",
    ]  # fmt: skip
    rows = [
        (
            shown(contents, file),
            size(file.entry["bytes"]),
            f"{file.entry['bits_per_weight']:.2f}",
            _figure(file.entry.get("kl"), "{:.1e}"),
            _figure(file.entry.get("top_1"), "{:.1%}"),
            str(Rate(**file.entry["rate"])) if file.entry.get("rate") else NOTHING,
            ", ".join(map(str, file.entry["tiers"])) or "none",
            "yes" if not file.entry["missed"] else f"no: {'; '.join(file.entry['missed'])}",
        )
        for file in contents.files
    ]
    return table(heads, rows, right=(1, 2, 3, 4))


def shown(contents: Contents, file: ExportFile) -> Markdown:
    """What a file is called in the repository."""
    place = contents.places[file.name]
    if file.what == "gguf":
        return code(place)
    kind = "adapter" if file.what == "adapter" else "weights"
    return Markdown(f"{kind}, safetensors" + ("" if place == ROOT else f" in {code(place + '/')}"))


def which(contents: Contents) -> Markdown | str:
    """The smallest GGUF file that lost nothing that could be seen, by the measure that there is."""
    found = contents.ggufs()
    if not found:
        return ""
    best = found[0]
    if not sound(best):
        nearer = "the lower the KL, the nearer a file is to the model that was trained."
        owns = [Rate(**file.entry["student_rate"]) for file in found if file.entry.get("student_rate")]
        if any((own.low or 0) > 0 for own in owns):
            return f"every GGUF file answered worse than the student itself, or missed a bound; {nearer}"
        return f"too few right answers were drawn to tell the files apart by them; {nearer}"
    rate, own = Rate(**best.entry["rate"]), Rate(**best.entry["student_rate"])
    rest = f"{size(best.entry['bytes'])}; greedily {rate} correct, the student itself {own}"
    weights = " For vLLM, or to train it further, take the safetensors." if "model" in contents.parts else ""
    return Markdown(
        f"{code(contents.places[best.name])} is the smallest whose loss is within the noise of its measurement "
        f"({inline(rest)}).{weights}"
    )


def size(n: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n / 1e3:.0f} kB"


def _figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _estimate(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return NOTHING
    interval = "" if found["low"] is None else f" [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
    return f"{100 * found['value']:.1f}%{interval}"
