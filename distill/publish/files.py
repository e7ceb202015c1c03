"""Which files of a run go to which place of which repository. Only what is listed here leaves the machine.

    model      root of `repo`; a second one in another type in a folder of that type's name (`nf4/`)
    adapter    root of `adapter_repo`, or `adapter/` of `repo`
    gguf       root of `gguf_repo` or `repo`: student-q8_0.gguf, and Modelfile.q8_0 for Ollama beside it
    dataset    what `dataset.write` makes, at the root of `dataset_repo`; traces as the student reads them in distill/
    each       README.md (the card) and distill/ (`record`)

Weights are safetensors or GGUF. Never sent: pickled files (.bin, .pt: a checkpoint's training arguments and optimizer
are such), logs, sampled answers, the base model's own README, and whatever else lies in a folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core import files
from distill.core.errors import ConfigError, DistillError
from distill.export import merge
from distill.publish import dataset, dataset_card, model_card, record
from distill.publish.record import Kind, RepositoryOf, Stored

if TYPE_CHECKING:
    from distill.publish.refusals import Refusal
    from distill.publish.release import ExportFile, Release
    from distill.publish.settings import Config, What

CARD = "README.md"

BESIDE_WEIGHTS = frozenset({*merge.SMALL_FILES, *merge.ADAPTER_FILES, merge.INDEX} - {CARD})
"""What of an exported folder goes out beside its weights."""


@dataclass(frozen=True)
class Outgoing:
    """A file on its way: where it lies here, and what is in it."""

    path: Path
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Outgoing:
        """As the file is now."""
        return cls(path, files.sha256_file(path), path.stat().st_size)

    def git_oid(self) -> str:
        """What git calls a file of this content, where it keeps the content itself."""
        content = self.path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """A repository as it shall be, as far as it is ours; `files` by path in it."""

    kind: Kind
    id: str
    parts: tuple[What, ...] = ()
    files: dict[str, Outgoing] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


def layout(
    release: Release, config: Config, allowed: Sequence[Refusal], experiment: Mapping[str, object], scratch: Path
) -> list[Repository]:
    """The repositories of a release, the one with the record first; what is written for them goes into `scratch`.

    Raises ConfigError if there is nothing to send, or not what `publish.what` asks for, DistillError if a file is not
    what its stage has made.
    """
    repositories: dict[tuple[Kind, str], Repository] = {}
    for what, path, outgoing in _outgoing(release, config, scratch):
        place = _place(what, config)
        repository = repositories.setdefault(place, Repository(*place))
        repository.parts = (*repository.parts, *((what,) if what not in repository.parts else ()))
        if path in repository.files:
            raise DistillError(f"publish: two files would be {path} of {repository}; give each a repository")
        repository.files[path] = outgoing
    _refuse_lack(release, config, {what for repository in repositories.values() for what in repository.parts})
    found = list(repositories.values())
    for path, local in record.write(release, experiment, scratch / "record").items():
        found[0].files[path] = Outgoing.of(local)
    for number, repository in enumerate(found):
        card = scratch / f"{number}-{CARD}"
        names = {path: outgoing.path for path, outgoing in sorted(repository.files.items())}
        if repository.kind == "dataset":
            text = dataset_card.render(release, allowed, config)
        else:
            text = model_card.render(release, allowed, config, repository.parts, names)
        files.write_text(card, text)
        repository.files[CARD] = Outgoing.of(card)
    told = scratch / "release.json"
    files.write_json(told, _record(release, found).dump())
    for repository in found:
        repository.files[record.RELEASE] = Outgoing.of(told)
    return found


def _outgoing(release: Release, config: Config, scratch: Path) -> Iterator[tuple[What, str, Outgoing]]:
    """Part, path in its repository, and file, for all that the run has and the settings want."""
    for what in release.offers(config):
        if what == "dataset":
            yield from _traces(release, config, scratch / "dataset")
            continue
        first = True
        for file in release.files:
            if file.what == what:
                for path, local in _exported(file, release.folders["export"], first, config):
                    yield what, path, _proved(local, release, "export")
                first = False


def _exported(file: ExportFile, stage: Path, first: bool, config: Config) -> Iterator[tuple[str, Path]]:
    """Path in the repository and here, of one exported format."""
    local = stage / file.path
    if not local.exists():
        raise DistillError(f"{local}: is not here, though it was exported; leave it out with `publish.what`")
    if file.what == "gguf":
        yield local.name, local
        if (local.parent / "Modelfile").exists():
            yield f"Modelfile.{file.name.removeprefix('gguf-')}", local.parent / "Modelfile"
        return
    kind = file.name.removeprefix("safetensors").removesuffix("-adapter").removeprefix("-")
    root = "adapter" if file.what == "adapter" and config.adapter_repo is None else ""
    folder = root if first else kind or "stored"
    for path in sorted(local.iterdir()):
        if path.name in BESIDE_WEIGHTS or path.suffix == ".safetensors":
            yield (f"{folder}/{path.name}" if folder else path.name), path


def _traces(release: Release, config: Config, folder: Path) -> Iterator[tuple[What, str, Outgoing]]:
    folder.mkdir(parents=True)
    dataset.write(release, folder, rejected=config.rejected)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield "dataset", path.relative_to(folder).as_posix(), Outgoing.of(path)
    if release.traces is not None:
        local = release.traces.file
        yield "dataset", f"{record.FOLDER}/{local.parent.name}/{local.name}", _proved(local, release, "filter")


def _proved(path: Path, release: Release, stage: str) -> Outgoing:
    """The file, if it still is what its stage wrote and proved."""
    name = path.relative_to(release.folders[stage]).as_posix()
    outgoing = Outgoing.of(path)
    if release.manifests[stage]["files"].get(name, {}).get("sha256") != outgoing.sha256:
        raise DistillError(
            f"{path}: is not what the stage `{stage}` wrote, so nothing proves it; "
            f"remove {release.folders[stage]} and run `distill {stage}` again"
        )
    return outgoing


def _place(what: What, config: Config) -> tuple[Kind, str]:
    if what == "dataset":
        assert config.dataset_repo is not None  # `config.wants` says no without one
        return "dataset", config.dataset_repo
    own = {"adapter": config.adapter_repo, "gguf": config.gguf_repo}.get(what)
    return "model", own or config.repo


def _refuse_lack(release: Release, config: Config, there: set[What]) -> None:
    """Nothing to send, or not what was asked for by name."""
    lacking = [what for what in config.what or () if what not in there]
    ways = {
        "model": "`export: [safetensors]`", "adapter": "`export: [{format: safetensors, adapter: alone}]`",
        "gguf": "`export: [{format: gguf, type: q4_k_m}]`", "dataset": "a `filter:` stage with traces",
    }  # fmt: skip
    if lacking:
        raise ConfigError(f"{release.run}: `publish.what` asks for {lacking[0]}; it comes of {ways[lacking[0]]}")
    if not there:
        raise ConfigError(
            f"{release.run}: there is nothing to publish; the model comes of {ways['model']}, "
            "the traces go where `publish.dataset_repo` says"
        )


def _record(release: Release, repositories: Sequence[Repository]) -> record.Record:
    return record.Record(
        version=1,
        name=release.name,
        arm=release.arm,
        seed=release.seed,
        run=record.run_hash(release.manifests),
        stages={
            stage: record.StageOf(folder=folder.name, key=release.manifests[stage]["key"])
            for stage, folder in release.folders.items()
        },
        repositories=[
            RepositoryOf(
                kind=repository.kind,
                id=repository.id,
                files={
                    path: Stored(sha256=out.sha256, bytes=out.bytes) for path, out in sorted(repository.files.items())
                },
            )
            for repository in repositories
        ],
    )
