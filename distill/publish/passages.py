"""Passages that model card and dataset card share: where it is from, what was looked for, which run it was."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.core import rundir
from distill.core.models import EMBEDDED
from distill.publish import licences, record, refusals, secrets
from distill.publish.markdown import Markdown, bullets, code, inline, link, table
from distill.publish.overlap import OWN, Overlap

if TYPE_CHECKING:
    from distill.publish.release import Release, Teacher

SHOWN = 8
"""Most entries of a list of counts; the rest is one number."""
HASH = 12
"""Digits of a hash that are shown."""


def counts(found: Mapping[str, int], most: int = SHOWN) -> str:
    """Counts in a row, the largest first: `equation 734, product 622, 3 others 12`."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name or 'unnamed'} {count:,}" for name, count in ordered[:most]]
    rest = ordered[most:]
    return ", ".join([*shown, *([f"{len(rest)} others {sum(count for _, count in rest):,}"] if rest else [])])


def share(part: int, whole: int) -> str:
    """`12.3% (1,230)`; a share that is not nothing is never written as nothing."""
    percent = 100 * part / whole if whole else 0.0
    return f"{'under 0.1' if 0 < percent < 0.1 else f'{percent:.1f}'}% ({part:,})"


def model(name: str, on_hub: bool, revision: str | None = None) -> Markdown:
    """A model's name, as a link where it is one of the Hub."""
    shown = Markdown(f"{code(name)} (which comes with distill)") if name in EMBEDDED else code(name)
    at = f" at revision {inline(revision)}" if revision else ""
    linkable = on_hub and re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII)
    return Markdown(f"[{shown}](https://huggingface.co/{name}){at}" if linkable else f"{shown}{at}")


def licence(text: str | None) -> Markdown:
    """A licence as a link to its text where it is known, else as it was stated."""
    found = licences.known(text)
    if found is not None:
        return link(found.title, found.source)
    return inline(text) if text else Markdown("not stated")


def taught(teacher: Teacher) -> Markdown:
    """Who taught, how it was asked, and on what terms."""
    name = model(teacher.name, teacher.on_hub, teacher.revision)
    asked = [inline(_asked(settings)) for settings in teacher.asked.values()]
    how = f" Asked with {' and '.join(dict.fromkeys(asked))}." if asked else ""
    note = f" {inline(teacher.note)}" if teacher.note else ""
    return Markdown(f"**Teacher:** {name}.{how} Terms: {inline(teacher.terms)}{note}")


def _asked(settings: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {settings[key]:g}"
        for key, name in (("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k"))
        if settings.get(key)
    ]
    if settings.get("temperature") == 0:
        parts = ["greedy decoding"]
    parts += [f"at most {settings['max_tokens']:,} tokens"] if settings.get("max_tokens") else []
    said = {True: "thinking on", False: "thinking off"}
    parts += [said[settings["thinking"]]] if settings.get("thinking") in said else []
    for key, name in (("system", "system prompt"), ("instruction", "instruction")):
        parts += [f"the {name} “{settings[key]}”"] if settings.get(key) else []
    return ", ".join(parts) or "its own defaults"


def teachers(release: Release) -> Markdown:
    """Everyone who taught, or who wrote the traces that were imported."""
    said = [taught(teacher) for teacher in release.teachers]
    asked = {teacher.name for teacher in release.teachers}
    if "import" in release.folders and release.traces is not None:
        wrote = {name: rows for name, rows in release.traces.models.items() if name not in asked}
        if wrote:
            said.append(
                Markdown(
                    f"**Imported traces** were written by {inline(counts(wrote))}. Whether their terms allow training "
                    "is known here only as far as the sets' own licences say."
                )
            )
    return Markdown("\n\n".join(said))


def materials(release: Release) -> Markdown:
    """Sources of problems and imported sets, with licences and counts."""
    if release.traces is None:
        return Markdown("The training traces are not at hand, so their sources cannot be listed.")
    rows: list[Sequence[object]] = [
        (
            inline(one.name) if one.name else "no named source",
            "problems" if one.kind == "problems" else "imported traces",
            licence(one.licence),
            f"{one.problems:,}",
            f"{one.traces:,}",
            code(one.revision) if one.revision else "",
        )
        for one in release.traces.materials
    ]
    heads = ["source", "gives", "licence", "problems", "traces", "revision"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return table(heads, rows, right=(3, 4))


def funnel(release: Release) -> Markdown:
    """What each filter rejected, and why."""
    steps = release.counts("filter").get("steps", ())
    if not steps:
        return Markdown("")
    rows = [
        (
            code(step["filter"]) if step["filter"] else "all answers",
            f"{step['rejected']:,}" if step["filter"] else "",
            f"{step['kept']:,}",
            f"{step['problems']:,}",
            counts(step["reasons"], most=4),
        )
        for step in steps
    ]
    return table(["filter", "rejected", "left", "problems left", "reasons"], rows, right=(1, 2, 3))


def verifiers(release: Release) -> str:
    """Who judged the answers."""
    if release.verifiers:
        return ", ".join(f"{name} ({n:,} verdicts)" for name, n in release.verifiers.items())
    named = release.settings("verify").get("verifier") or {}
    return str(named.get("verifier", "nobody"))


def overlap(release: Release) -> Markdown:
    """What was found of the evaluated problems in the training questions, and what the filter did."""
    said = [_overlap_line(one) for one in release.overlaps]
    steps = {step["filter"]: step for step in release.counts("filter").get("steps", ())}
    names = refusals.signatures(release)
    if "contamination" in steps:
        step = steps["contamination"]
        why = f" ({counts(step['reasons'])})" if step["reasons"] else ""
        said.append(
            inline(
                f"Before training, the filter `contamination` looked for {', '.join(names) or 'benchmarks'} in the "
                f"answered questions and rejected {step['rejected']:,} answers{why}."
            )
        )
    else:
        said.append(Markdown("The filter `contamination` did not run: no benchmark was looked for before training."))
    return bullets(said)


def _overlap_line(one: Overlap) -> Markdown:
    named = "The experiment's own test problems" if one.task == OWN else f"Task {code(one.task)}"
    if not one.questions:
        return Markdown(f"{named}: the training questions are not at hand, so nobody could look.")
    looked = f"{one.items:,} problems against {one.questions:,} training questions"
    if not one.by_text:
        return Markdown(f"{named}: {looked}, by id alone; {one.copies:,} are in both.")
    found = f"{one.copies:,} are copies (same numbers, same or nearly the same words)"
    rest = f"{one.siblings:,} more have a training question's words with other numbers"
    kind = " They are drawn from the same sources as the training problems." if one.task == OWN else ""
    return Markdown(f"{named}: {looked}; {found}, {rest}.{kind}")


def limits_of_data(release: Release) -> list[str]:
    """What the traces themselves say against the data."""
    traces = release.traces
    if traces is None:
        return []
    said = []
    if traces.domains:
        said.append(f"Domains of the training traces: {counts(traces.domains)}. Nothing else was taught.")
    for label, name in (
        ("majority", "were graded against a vote of the teacher's own answers, not against a reference"),
        ("rationalised", "were written with the reference answer in sight"),
        ("none", "were not held against any answer"),
    ):
        if traces.labels.get(label):
            said.append(f"{share(traces.labels[label], traces.rows)} of the training traces {name}.")
    wrong = {value: n for value, n in traces.verdicts.items() if value not in ("correct", "none")}
    if wrong:
        said.append(f"Among the training traces are some whose verdict is not `correct`: {counts(wrong)}.")
    if traces.unfinished:
        said.append(f"{share(traces.unfinished, traces.rows)} of the training traces are cut or unfinished.")
    said += [f"A bound was missed while it was made: {text}" for text in missed(release)]
    return said


def missed(release: Release) -> list[str]:
    """Bounds that stages missed; those of exported files are told beside the files."""
    return [
        str(secrets.shareable(manifest["missed"]))
        for stage, manifest in release.manifests.items()
        if manifest.get("missed") and stage != "export"
    ]


def provenance(release: Release) -> Markdown:
    """Which run, arm and seed this is, by its hash."""
    run_hash = record.run_hash(release.manifests)
    arms = f", arm {code(release.arm)}, seed {release.seed}"
    back = f"{code('distill pull')} makes a run folder of it again."
    return Markdown(
        f"Run {code(release.name)}{arms}, hash {code(run_hash[:HASH])}; {back} What each stage wrote, by content:"
    )


def stages(release: Release) -> Markdown:
    """One line a stage: its key, content, and how long it took."""
    rows = [
        (
            name, code(manifest["key"][:HASH]), code(str(manifest["content"])[:HASH]),
            manifest["made_of"]["version"], secrets.shareable(manifest["summary"]), f"{manifest['seconds']:,.0f} s",
        )
        for name, manifest in release.manifests.items()
    ]  # fmt: skip
    return table(["stage", "key", "content", "version", "what it did", "time"], rows, right=(3, 5))


def versions(release: Release) -> str:
    """Packages of the training's environment, or of the last stage that there is."""
    manifest = release.manifests.get("train") or next(reversed(list(release.manifests.values())), None)
    environment = (manifest or {}).get("environment") or {}
    packages = environment.get("packages", {})
    there = [name for name in rundir.PACKAGES if packages.get(name, "not installed") != "not installed"]
    shown = [f"{name} {packages[name]}" for name in there]
    return ", ".join([*shown, f"Python {environment['python']}"]) if environment.get("python") else ", ".join(shown)


def cost(release: Release) -> str:
    """What was bought and how long was computed, as far as it is known."""
    parts = []
    sampled = release.counts("sample")
    if sampled:
        money = sampled.get("spent_cost")
        paid = f"for {money:,.2f} in the currency of its price list" if money is not None else "at no known price"
        parts.append(f"{sampled.get('spent_tokens') or sampled.get('tokens', 0):,} teacher tokens {paid}")
    seconds = release.manifests.get("train", {}).get("seconds")
    if seconds is not None:
        parts.append(f"{seconds / 3600:.2f} hours of training" if seconds >= 3600 else f"{seconds:,.0f} s of training")
    return "; ".join(parts) or "not known"
