"""What stands against a release. Each refusal has a name; `--allow NAME` overrides it, and the card then says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core import tables
from distill.core.records import Trace
from distill.publish import dataset, licences, secrets
from distill.publish.markdown import one_line
from distill.publish.overlap import OWN, Overlap
from distill.text.private import personal, secret

if TYPE_CHECKING:
    from distill.publish.release import Release
    from distill.publish.settings import Config

NAMES: Mapping[str, str] = {
    "unfinished": "stages that the experiment asks for are missing",
    "unproved": "tier 1 or 2 of an exported file's proof did not run, or failed",
    "nothing-measured": "the student was not evaluated",
    "contaminated": "problems that it was measured on were trained on, or nobody could look",
    "licence-unknown": "a licence, or the teacher's terms, are not known to allow this release",
    "licence-incompatible": "a licence, or the teacher's terms, do not allow this release",
    "secrets": "tokens, keys, paths of this machine or addresses of private servers in what goes out",
    "personal-data": "e-mail addresses, card, bank or telephone numbers, network addresses in the traces",
}
"""Names of the refusals, each with one line of help."""

SCANNED = (".md", ".json", ".jsonl", ".jinja", ".txt", ".yaml", ".yml")
"""Endings of text files; weights and tables are none."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
"""Text of the base model, and no place for a secret of this machine."""


@dataclass(frozen=True)
class Refusal:
    """One reason not to publish, in one line."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def find(release: Release, config: Config) -> list[Refusal]:
    """Everything that stands against this release, in the order of `NAMES`; nothing is sent or written."""
    checks: tuple[Callable[[Release, Config], Iterator[Refusal]], ...] = (
        _unfinished, _unproved, _nothing_measured, _contaminated, _licences, _terms, _in_traces,
    )  # fmt: skip
    found = [Refusal(one.name, one_line(one.why)) for check in checks for one in check(release, config)]
    return sorted(found, key=lambda refusal: list(NAMES).index(refusal.name))


def find_in(outgoing: Mapping[str, Path]) -> list[Refusal]:
    """Secrets, machine paths and private addresses in the text files that go out, by their path in the repository."""
    found = []
    for name, path in sorted(outgoing.items()):
        plain = path.suffix.lower() in SCANNED or path.name.startswith("Modelfile")
        if not plain or path.name in VOCABULARIES:
            continue
        with path.open(encoding="utf-8", errors="replace") as lines:
            kinds = ((number, kind) for number, line in enumerate(lines, 1) if (kind := secrets.private(line)))
            if (first := next(kinds, None)) is not None:
                found.append(Refusal("secrets", f"{name}, line {first[0]}: {first[1]}"))
    return found


def _unfinished(release: Release, _: Config) -> Iterator[Refusal]:
    if release.missing:
        named = ", ".join(f"`{name}`" for name in release.missing)
        yield Refusal("unfinished", f"{named} not done; `distill run` the experiment to its end")


def _wants_a_model(config: Config) -> bool:
    return config.wants("model") or config.wants("adapter") or config.wants("gguf")


def _has_model(release: Release, config: Config) -> bool:
    return any(what != "dataset" for what in release.offers(config))


def _unproved(release: Release, config: Config) -> Iterator[Refusal]:
    for file in release.files:
        if config.wants(file.what) and (missing := file.missing_proof()) is not None:
            yield Refusal("unproved", f"{file.name}: {missing}")
    if not release.files and "train" in release.folders and _wants_a_model(config):
        yield Refusal("unproved", "nothing was exported, so nothing of the model is proved; add `export:` and run it")


def _nothing_measured(release: Release, config: Config) -> Iterator[Refusal]:
    measured = any(model["name"] == "student" for task in release.tasks for model in task["models"])
    if _has_model(release, config) and not measured:
        yield Refusal("nothing-measured", "no result of the student; name it in `evaluate.models` and run `evaluate`")


def _contaminated(release: Release, config: Config) -> Iterator[Refusal]:
    if not _has_model(release, config):
        return
    looked_for = signatures(release)
    for overlap in release.overlaps:
        if overlap.copies:
            yield Refusal(
                "contaminated",
                f"{overlap.copies:,} of {overlap.items:,} problems of task `{overlap.task}` are in the training "
                f"questions, first {overlap.example[:12]}; filter them out (`contamination`) and train again",
            )
        elif not _looked(overlap, looked_for):
            absent = "its questions" if overlap.questions else "the training traces"
            yield Refusal(
                "contaminated",
                f"nobody could look for task `{overlap.task}` in the training questions: {absent} are not here, and no "
                "`contamination` filter had a signature of that name",
            )


def signatures(release: Release) -> list[str]:
    """Names of the signature files that the `contamination` filter of this run looked for."""
    filters = release.settings("filter").get("filters", ())
    return [
        Path(path).stem for one in filters if one.get("filter") == "contamination" for path in one.get("signatures", ())
    ]


def _looked(overlap: Overlap, looked_for: list[str]) -> bool:
    """Whether the absence of copies was seen: in the texts, or by a filter that had the task's signature.

    The experiment's own test problems need neither: no id of theirs is in training, which the stages see to.
    """
    if overlap.by_text or (overlap.task == OWN and overlap.questions):
        return True
    return any(_plain(name).startswith(_plain(overlap.task)) for name in looked_for)


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _licences(release: Release, config: Config) -> Iterator[Refusal]:
    offered = release.offers(config)
    if any(what != "dataset" for what in offered):
        yield from _licences_of(release, config, of_dataset=False)
    if "dataset" in offered:
        yield from _licences_of(release, config, of_dataset=True)


def _licences_of(release: Release, config: Config, *, of_dataset: bool) -> Iterator[Refusal]:
    thing = "dataset" if of_dataset else "model"
    sources = release.sources(of_dataset)
    unknown = [(name, text) for name, text, _ in sources if licences.known(text) is None]
    for name, text in unknown:
        stated = f"has the licence {text!r}, of which nothing is known here" if text else "states no licence"
        yield Refusal("licence-unknown", f"{thing}: {name} {stated}")
    said = release.licence(config, of_dataset)
    chosen = licences.known(said)
    if said is None and not unknown:
        several = ", ".join(dict.fromkeys(str(text) for _, text, _ in sources)) or "no source"
        yield Refusal("licence-unknown", f"{thing}: no licence fits all sources ({several}); set `publish.licence`")
    if said is not None and chosen is None:
        yield Refusal("licence-unknown", f"{thing}: nothing is known here of `publish.licence: {said}`")
    for name, text, use in sources if chosen is not None else ():
        source = licences.known(text)
        if source is None or chosen is None:
            continue
        answer, why = licences.meets(source, chosen, use)
        if answer != "fits":
            refusal = "licence-incompatible" if answer == "unfit" else "licence-unknown"
            yield Refusal(refusal, f"{thing} under {chosen.id}: {name}: {why}")


def _terms(release: Release, config: Config) -> Iterator[Refusal]:
    if not release.offers(config):
        return
    for teacher in release.teachers:
        if teacher.distillation == "forbidden":
            yield Refusal("licence-incompatible", f"teacher {teacher.name}: {teacher.terms}")
        elif teacher.distillation == "unknown":
            yield Refusal("licence-unknown", f"teacher {teacher.name}: {teacher.terms}")
    asked = {teacher.name for teacher in release.teachers}
    for name, rows in release.traces.models.items() if release.traces is not None else ():
        if name not in asked and licences.forbids_learning(name):
            yield Refusal(
                "licence-incompatible",
                f"{rows:,} traces were written by {secrets.model_name(name)}, a service whose terms forbid training "
                "competing models on its answers",
            )


def _in_traces(release: Release, config: Config) -> Iterator[Refusal]:
    """One line for each kind of find, with how many traces have it and the first of them; never the find itself."""
    if release.traces is None or not release.offers(config):
        return
    found: dict[tuple[str, str], list[str]] = {}
    for key, texts in _going_out(release, config):
        kinds = {("secrets", secret(text)) for text in texts} | {("personal-data", personal(text)) for text in texts}
        for name, kind in kinds:
            if kind is not None:
                found.setdefault((name, kind), []).append(key)
    for (name, kind), keys in sorted(found.items()):
        yield Refusal(
            name, f"{kind} in {len(keys):,} traces, first {keys[0][:12]}; the filter `private` rejects such traces"
        )


def _going_out(release: Release, config: Config) -> Iterator[tuple[str, list[str]]]:
    """Keys and texts of the traces that were trained on and, where they go out too, of those that were rejected."""
    if release.traces is not None:
        for trace in tables.stream(release.traces.file, Trace):
            yield trace.key, [*(message.content for message in trace.messages), trace.reasoning or "", trace.answer]
    if config.rejected and "dataset" in release.offers(config):
        for row in dataset.rejected_rows(release):
            yield row.id, [*(message.content for message in row.messages), row.reasoning or "", row.answer]
