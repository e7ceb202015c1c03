"""What a repository keeps in `distill/`, so that `distill pull` can make a run folder of it again.

    distill/release.json                        which run this is, and every file of the release with its SHA-256
    distill/experiment.json                     the resolved experiment, of the published arm and seed
    distill/train-1a2b3c4d5e6f/manifest.json    of every stage; it names all outputs by their hashes
    distill/evaluate-.../results.json ...       small results without texts (`KEPT`)

Large files are not repeated here: a manifest says which output has which SHA-256, release.json says which file of which
repository has it, and that is where it belongs in the run folder. release.json lies in each repository of a release,
the rest in the first one. Settings that name places of this machine are made fit for others (`secrets.shareable`);
keys and hashes stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, ValidationError

from distill.core import files, rundir
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.stage import say
from distill.publish import secrets
from distill.publish.settings import Repository

if TYPE_CHECKING:
    from distill.publish.release import Release

FOLDER = "distill"
RELEASE = f"{FOLDER}/release.json"
EXPERIMENT = f"{FOLDER}/experiment.json"
PULLED = "pulled.json"
"""In a run folder that was pulled: where it came from."""

KEPT = {
    "filter": ("funnel.json", "statistics.json"),
    "train": ("report.json", "history.json", "contract.json"),
    "evaluate": ("results.json", "scores.parquet", "forced.parquet"),
    "export": ("proof.json",),
}
"""Small outputs of stages that go out with their manifests: figures, no texts of problems or answers."""

FIXED = ("key", "content", "files", "inputs")
"""Parts of a manifest that are hashes and names of folders: they go out as they are."""

Kind = Literal["model", "dataset"]

HASH = r"[0-9a-f]{64}"
SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


class Stored(Settings):
    """A file of a release."""

    sha256: str = Field(pattern=f"^{HASH}$")
    bytes: NonNegativeInt


class StageOf(Settings):
    """A stage of the run that was published."""

    folder: str
    key: str = Field(pattern=f"^{HASH}$")


class RepositoryOf(Settings):
    """A repository of a release, and the files that it has of it."""

    kind: Kind
    id: Repository
    files: dict[str, Stored]


class Record(Settings):
    """release.json."""

    version: Literal[1]
    name: str
    arm: str
    seed: NonNegativeInt
    run: str = Field(pattern=f"^{HASH}$")
    stages: dict[str, StageOf]
    repositories: list[RepositoryOf] = Field(min_length=1)

    @property
    def tag(self) -> str:
        """The revision tag of the run."""
        return tag_of(self.run)


def tag_of(run: str) -> str:
    """The revision tag that a run has in each of its repositories."""
    return f"distill-{run[:12]}"


def run_hash(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """What a run is, as 64 hex digits: keys and contents of all its stages."""
    return digest({stage: [data["key"], data["content"]] for stage, data in manifests.items()})


def read(path: Path, where: str) -> Record:
    """release.json of a repository. Raises DistillError if it is none, or names places outside a run folder."""
    try:
        record = Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DistillError(f"{where}: its {RELEASE} is not one of this tool ({place}: {first['msg']})") from error
    paths = [path for repository in record.repositories for path in repository.files]
    for name in (record.name, record.arm, *(stage.folder for stage in record.stages.values())):
        if not SEGMENT.fullmatch(name):
            raise DistillError(f"{where}: its {RELEASE} names {name!r}, which is no plain name; nothing was taken")
    for stage, about in record.stages.items():
        if about.folder != rundir.folder_name(stage, about.key):
            raise DistillError(f"{where}: its {RELEASE} calls the folder of stage {stage} {about.folder!r}")
    for path_in_repo in paths:
        refuse_path(path_in_repo, where)
    return record


def refuse_path(path: str, where: str) -> None:
    """Raises DistillError for a path that is not plainly inside: `..`, a root, hidden names, odd characters."""
    if not all(SEGMENT.fullmatch(part) for part in path.split("/")) or len(path) > 200:
        raise DistillError(f"{where}: names the file {path!r}, which could lead out of the folder; nothing was taken")


def write(release: Release, experiment: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write what belongs to `distill/` of the first repository, release.json aside; by path in the repository.

    A result that names a place of this machine is left where it is: changed, it would not have its hash.
    """
    written: dict[str, Path] = {EXPERIMENT: folder / EXPERIMENT}
    files.write_json(folder / EXPERIMENT, secrets.shareable(experiment))
    for stage, home in release.folders.items():
        data = release.manifests[stage]
        told = {name: secrets.shareable(value) for name, value in data.items() if name not in FIXED}
        path = f"{FOLDER}/{home.name}/{rundir.MANIFEST}"
        files.write_json(folder / path, {**data, **told})
        written[path] = folder / path
        for name in KEPT.get(stage, ()):
            if not (home / name).exists():
                continue
            if name.endswith(".json") and (kind := secrets.private((home / name).read_text(encoding="utf-8"))):
                say(f"publish   {home.name}/{name} stays here: it has a {kind} in it")
                continue
            written[f"{FOLDER}/{home.name}/{name}"] = home / name
    return written
