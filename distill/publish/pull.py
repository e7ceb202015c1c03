"""`distill pull`: a published run as a run folder, every file of it checked by its hash.

The record of the repository says which run it is; manifests say which output has which SHA-256; a file of that SHA-256
is fetched from where the record says it is, checked, and put in all its places. Nothing else is taken: a file that no
manifest names has no place here, and names that lead out of the folder, or are no weights, text or tables, are refused.
What was not published is known by its hash alone (`absent.json`). A stage's manifest is written after its files, so a
pull that was cut off goes on where it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from distill.core import files, rundir
from distill.core.errors import ConfigError, DistillError
from distill.core.progress import short
from distill.core.stage import Report, Workspace, say
from distill.publish import hub, record, settings
from distill.publish.record import Kind, Record, RepositoryOf, Stored

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Manifests = dict[str, tuple[Path, dict[str, Any]]]
"""File and content of each stage's manifest."""

TAKEN = frozenset({".json", ".safetensors", ".gguf", ".jinja", ".txt", ".model", ".parquet", ".md"})
"""Suffixes of files that are taken; none of them can hold code that loading would run."""
TAKEN_NAMES = frozenset({"LICENSE", "Modelfile"})

CHANGED = "it was changed since it was published; name the run's own revision: --revision distill-..."

SMALL = 50_000_000
"""More bytes than any manifest or record has; a larger one is refused before it is fetched."""


@dataclass(frozen=True)
class Source:
    """A repository at one commit, and the files of the release that it has."""

    about: RepositoryOf
    commit: str

    def __str__(self) -> str:
        return f"{self.about.kind} {self.about.id}"


def pull(repo: str, workspace: Workspace, *, revision: str | None = None, name: str | None = None) -> Report:
    """Make the run folder `name` (the run's own name unless given) of what `repo` has; `datasets/owner/name` means a
    dataset. Raises ConfigError if the folder is another run, DistillError for a fault of the Hub or of its files.
    """
    asked: Kind = "dataset" if repo.startswith("datasets/") else "model"
    id = repo.removeprefix("datasets/")
    try:
        settings.repository(id)
    except ValueError as error:
        raise ConfigError(f"pull: {error}") from error
    api = hub.api()
    kind, commit = _resolve(api, asked, id, revision)
    with TemporaryDirectory(prefix="distill-pull-") as scratch:
        about = _read_record(_Fetched(api, Path(scratch)), kind, id, commit)
    run_name = name or about.name
    if not record.SEGMENT.fullmatch(run_name):
        raise ConfigError(f"--name {run_name}: a run's name has letters, digits, `.`, `_`, `-`")
    run = workspace.run_folder(run_name)
    _claim(run, kind, id, about)
    with rundir.locked(run, "pull", about.run):
        fetched = _Fetched(api, run / ".pull")
        try:
            sources = _sources(api, about, kind, id, commit)
            manifests = _manifests(fetched, sources, about)
            placed = _place(fetched, sources, about, manifests, run)
            _finish(fetched, sources, about, manifests, run, run_name)
        finally:
            shutil.rmtree(run / ".pull", ignore_errors=True)  # what was whole is in its place
    return _report(run, about, manifests, placed)


def _resolve(api: HfApi, kind: Kind, id: str, revision: str | None) -> tuple[Kind, str]:
    """Kind and commit of a repository; a name that is no model is looked for among the datasets."""

    def ask(as_kind: Kind) -> Any:
        try:
            return api.repo_info(id, repo_type=as_kind, revision=revision)
        except Exception as error:
            if as_kind == "model" and hub.not_found(error):
                return None
            raise

    found = hub.patiently("pull", id, lambda: ask(kind))
    if found is not None:
        return kind, str(found.sha)
    try:
        return "dataset", str(hub.patiently("pull", id, lambda: ask("dataset")).sha)
    except DistillError:
        hub.patiently("pull", id, lambda: api.repo_info(id, repo_type="model", revision=revision))
        raise


class _Fetched:
    """Files on their way from the Hub, through a scratch folder."""

    def __init__(self, api: HfApi, folder: Path) -> None:
        self._api, self._folder = api, folder
        self._sizes: dict[tuple[Kind, str, str], dict[str, int]] = {}

    def unchecked(self, kind: Kind, id: str, commit: str, path: str) -> Path:
        """A small file that no record names yet."""
        size = self._size(kind, id, commit, path)
        if size is None:
            raise DistillError(
                f"pull {id}: has no {path}, so it was not published by `distill publish`; "
                "a model without a run is used by its name: `evaluate: {models: [owner/name]}`"
            )
        if size > SMALL:
            raise DistillError(f"pull {id}: its {path} has {size:,} bytes, which no record has; nothing was taken")
        return self._download(kind, id, commit, path)

    def file(self, source: Source, path: str, due: Stored) -> Path:
        """A file of the release. Raises DistillError if it is not what the record says."""
        about = source.about
        size = self._size(about.kind, about.id, source.commit, path)
        if size != due.bytes:
            got = "is not there" if size is None else f"has {size:,} bytes"
            raise DistillError(f"pull {source}: {path} {got}, the release has one of {due.bytes:,}; {CHANGED}")
        local = self._download(about.kind, about.id, source.commit, path)
        got_sha256 = files.sha256_file(local)
        if got_sha256 != due.sha256:
            local.unlink()
            raise DistillError(
                f"pull {source}: {path} has SHA-256 {got_sha256[:12]}, the release has {due.sha256[:12]}; {CHANGED}"
            )
        return local

    def _size(self, kind: Kind, id: str, commit: str, path: str) -> int | None:
        """Bytes of a file as the Hub lists it, None where it is not there; asked once a repository."""
        from huggingface_hub.hf_api import RepoFile

        key = (kind, id, commit)
        if key not in self._sizes:
            tree = partial(self._api.list_repo_tree, id, recursive=True, revision=commit, repo_type=kind)
            listed = hub.patiently("pull", id, lambda: list(tree()))
            self._sizes[key] = {entry.path: entry.size for entry in listed if isinstance(entry, RepoFile)}
        return self._sizes[key].get(path)

    def _download(self, kind: Kind, id: str, commit: str, path: str) -> Path:
        home = self._folder / f"{kind}-{id.replace('/', '--')}"
        get = partial(self._api.hf_hub_download, id, path, repo_type=kind, revision=commit, local_dir=home)
        return Path(hub.patiently("pull", id, get))


def _read_record(fetched: _Fetched, kind: Kind, id: str, commit: str) -> Record:
    about = record.read(fetched.unchecked(kind, id, commit, record.RELEASE), f"pull {id}")
    for repository in about.repositories:
        for path in repository.files:
            _refuse_kind(path, f"pull {id}")
    return about


def _refuse_kind(path: str, where: str) -> None:
    name = PurePosixPath(path)
    if name.suffix not in TAKEN and name.name not in TAKEN_NAMES and not name.name.startswith("Modelfile."):
        raise DistillError(
            f"{where}: the release has {path}; only weights (.safetensors, .gguf), texts and tables are taken"
        )


def _claim(run: Path, kind: Kind, id: str, about: Record) -> None:
    """Make the folder ours, or refuse one that is another run."""
    mark = {"repo": id, "kind": kind, "run": about.run}
    path = run / record.PULLED
    if path.exists():
        there = files.read_json(path)
        if there.get("run") != about.run:
            raise ConfigError(f"{run}: was pulled from {there.get('repo')}, of another run; give this one a --name")
        return
    if run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run}: is there already, and was not pulled; give this one a --name")
    files.write_json(path, mark)


def _sources(api: HfApi, about: Record, kind: Kind, id: str, commit: str) -> list[Source]:
    """The repositories of the release: the one that was asked for at its commit, the others at the run's tag."""
    found = []
    for repository in about.repositories:
        if (repository.kind, repository.id) == (kind, id):
            found.append(Source(repository, commit))
            continue
        look = partial(api.repo_info, repository.id, repo_type=repository.kind, revision=about.tag)
        try:
            found.append(Source(repository, str(hub.patiently("pull", repository.id, look).sha)))
        except DistillError as error:
            say(f"pull      {error}; the run goes without what is there")
    if not any((source.about.kind, source.about.id) == (kind, id) for source in found):
        raise DistillError(
            f"pull {id}: its release names {', '.join(r.id for r in about.repositories)} and not itself: it was copied "
            f"or renamed; pull {about.repositories[0].id}"
        )
    return found


def _manifests(fetched: _Fetched, sources: list[Source], about: Record) -> Manifests:
    """Manifest of every stage, checked: its own hash, its key, its content, and the names of its outputs."""
    first = about.repositories[0]
    home = next((source for source in sources if source.about is first), None)
    if home is None:
        raise DistillError(f"pull: the record of this run is in {first.id}, which cannot be read")
    found: Manifests = {}
    for stage, where in about.stages.items():
        path = f"{record.FOLDER}/{where.folder}/{rundir.MANIFEST}"
        due = first.files.get(path)
        if due is None or due.bytes > SMALL:
            raise DistillError(f"pull {first.id}: the release has no manifest of its stage `{stage}`")
        local = fetched.file(home, path, due)
        data = files.read_json(local)
        outputs = data.get("files") if isinstance(data, dict) else None
        if not isinstance(outputs, dict) or not isinstance(data.get("content"), str) or data.get("key") != where.key:
            raise DistillError(f"pull {first.id}: {path} is no manifest of this stage")
        for name, output in outputs.items():
            record.refuse_path(name, f"pull {first.id}: {path}")
            Stored.model_validate(output)
        if rundir.content_of(outputs) != data["content"]:
            raise DistillError(f"pull {first.id}: {path}: its outputs do not give its content hash")
        found[stage] = (local, data)
    return found


def _wanted(sources: list[Source], digests: frozenset[str]) -> Iterator[tuple[Source, str, Stored]]:
    """Files that belong somewhere in the run folder, each content once."""
    seen: set[str] = set()
    for source in sources:
        for path, stored in source.about.files.items():
            if stored.sha256 in digests and stored.sha256 not in seen:
                seen.add(stored.sha256)
                yield source, path, stored


def _place(
    fetched: _Fetched,
    sources: list[Source],
    about: Record,
    manifests: Manifests,
    run: Path,
) -> int:
    """Put every published output in its places; returns how many files there are. Those that are there are kept."""
    places: dict[str, list[Path]] = {}
    for stage, (_, data) in manifests.items():
        for name, output in data["files"].items():
            places.setdefault(output["sha256"], []).append(run / about.stages[stage].folder / name)
    for folder in {target.parent for targets in places.values() for target in targets}:
        if folder.exists():
            files.remove_partials(folder)  # of a pull that was killed
    wanted = list(_wanted(sources, frozenset(places)))
    need = sum(stored.bytes for _, _, stored in wanted)
    free = shutil.disk_usage(run).free
    if need > free:
        raise DistillError(f"{run}: the release has {short(need)}B, the disk has {short(free)}B left")
    n_placed = 0
    for source, path, stored in wanted:
        targets = places[stored.sha256]
        lacking = [target for target in targets if not _is_there(target, stored)]
        n_placed += len(targets)
        if not lacking:
            continue
        whole = next((target for target in targets if target not in lacking), None)
        local = whole or fetched.file(source, path, stored)
        for target in lacking:
            target.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(target) as half:
                _link(local, half)
        if whole is None:
            local.unlink()
    return n_placed


def _is_there(path: Path, stored: Stored) -> bool:
    return path.is_file() and path.stat().st_size == stored.bytes and files.sha256_file(path) == stored.sha256


def _link(source: Path, target: Path) -> None:
    """The same content at another place, without its bytes where the file system can do that."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _finish(
    fetched: _Fetched,
    sources: list[Source],
    about: Record,
    manifests: Manifests,
    run: Path,
    name: str,
) -> None:
    """Say what is absent, then write manifests, experiment and index: from here on the stages are done."""
    import yaml

    seconds = {}
    for stage, (local, data) in manifests.items():
        folder = run / about.stages[stage].folder
        folder.mkdir(exist_ok=True)
        absent = sorted(name for name in data["files"] if not (folder / name).exists())
        files.write_json(folder / rundir.ABSENT, absent)
        files.write_text(folder / rundir.MANIFEST, local.read_text(encoding="utf-8"))
        seconds[stage] = data.get("seconds", 0.0)
    first = about.repositories[0]
    home = next(source for source in sources if source.about is first)
    due = first.files.get(record.EXPERIMENT)
    if due is not None:
        sections = _sections(files.read_json(fetched.file(home, record.EXPERIMENT, due)), about.arm, first.id)
        told = {"name": name, "seeds": [about.seed]}
        files.write_json(run / "experiment.json", {**told, "arms": {about.arm: sections}})
        # As one writes it: sections at the top, where `--set` reaches them; the arm keeps its name.
        written = {**told, **({} if about.arm == "main" else {"arms": {about.arm: {}}}), **sections}
        head = f"# The experiment of {first.id}, every setting written out.\n"
        text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
        files.write_text(run / "experiment.yaml", head + text)
    stages = {
        stage: {"key": where.key, "folder": where.folder, "seconds": seconds[stage]}
        for stage, where in about.stages.items()
    }
    index = {"name": name, "experiment": "experiment.yaml", "arms": {about.arm: {str(about.seed): stages}}}
    files.write_json(run / rundir.INDEX, index)


def _sections(experiment: Any, arm: str, id: str) -> dict[str, Any]:
    """The sections of the published arm."""
    try:
        return {str(name): dict(section) for name, section in experiment["arms"][arm].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DistillError(f"pull {id}: {record.EXPERIMENT} is no experiment with an arm `{arm}`") from error


def _report(run: Path, about: Record, manifests: Manifests, placed: int) -> Report:
    rows, absent_of = [], {}
    for stage, (_, data) in manifests.items():
        folder = run / about.stages[stage].folder
        absent = rundir.absent(folder)
        absent_of[stage] = sorted(absent)
        n_files = len(data["files"])
        rows.append(
            {
                "stage": stage,
                "folder": folder.name,
                "files": f"{n_files - len(absent)} of {n_files}",
                "known by hash alone": ", ".join(name for name in absent_of[stage] if not rundir.unhashed(name)) or "-",
            }
        )
    summary = (
        f"run {about.tag.removeprefix('distill-')}, {placed:,} files whose hashes check, in {run}; "
        f"go on with `distill evaluate {run / 'experiment.yaml'} --workspace {run.parent}`"
    )
    return Report(summary, rows, {"run": about.run, "folder": str(run), "absent": absent_of})
