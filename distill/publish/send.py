"""`distill publish`: what would change on the Hub, and, when it is asked for, the change.

Each repository gets one commit, made of the files that differ and of nothing else, named by the run's hash and tagged
with it. Repositories are written from the last to the first, so that the first, which has the record, names only what
is there. Files of others are left alone: what is deleted is a file that our own earlier release put there, that this
one does not have, and that has not been touched since.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distill.core import files
from distill.core.errors import ConfigError, DistillError
from distill.core.progress import short
from distill.core.stage import Report, say
from distill.publish import hub, record, refusals
from distill.publish import release as releases
from distill.publish.files import CARD, Outgoing, Repository, layout
from distill.publish.settings import Config

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    from distill.publish.refusals import Refusal

T = TypeVar("T")

Change = Literal["added", "changed", "unchanged", "deleted"]


@dataclass(frozen=True)
class Remote:
    """A repository as the Hub has it now."""

    exists: bool
    private: bool = True
    head: str | None = None
    files: Mapping[str, RepoFile] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    """Commits by tag."""
    ours: frozenset[str] = frozenset()
    """Files that our earlier release put there and nobody changed since."""
    published_before: bool = False


@dataclass(frozen=True)
class Plan:
    """What a repository needs to become what it shall be. `remote` None: the Hub was not reached, nothing is known."""

    repository: Repository
    remote: Remote | None
    changes: Mapping[str, Change]

    def paths(self, *kinds: Change) -> list[str]:
        """Files with one of these changes."""
        return [path for path, change in self.changes.items() if change in kinds]

    @property
    def n_bytes(self) -> int:
        """Size of the files that differ; objects that the Hub has already are not sent again."""
        return sum(self.repository.files[path].bytes for path in self.paths("added", "changed"))


def publish(
    run: Path, config: Config, *, arm: str | None = None, seed: int | None = None, allow: Sequence[str] = (),
    yes: bool = False,
) -> Report:  # fmt: skip
    """Say what publishing a run would change, and with `yes` do it. The cards are left in `publish/` of the run.

    Without `yes` what is refused is told, shown on the cards as if it were allowed, and missed in the report. With it,
    raises ConfigError for what is refused and not allowed by name, DistillError for a fault of the Hub.
    """
    if (run / record.PULLED).exists():
        say(f"publish   {run} was pulled: its card states what was published with it, and nothing else of the run")
    if unknown := [name for name in allow if name not in refusals.NAMES]:
        raise ConfigError(f"--allow {unknown[0]}: there is no such refusal; they are {', '.join(refusals.NAMES)}")
    release = releases.gather(run, arm, seed)
    experiment = _experiment(release, config)
    found = refusals.find(release, config)
    refused = _tell(found, allow, yes)
    with TemporaryDirectory(prefix="distill-publish-") as scratch:
        repositories = layout(release, config, found, experiment, Path(scratch) / "first")
        if late := [one for repository in repositories for one in refusals.find_in(_places(repository))]:
            refused = _tell(late, allow, yes) or refused
            found = [*found, *late]
            repositories = layout(release, config, found, experiment, Path(scratch) / "second")  # the card says it
        cards = _keep_cards(run, repositories)
        api, run_hash = hub.api(), record.run_hash(release.manifests)
        if yes:
            hub.patiently("publish", repositories[0].id, api.whoami)
        plans = [_plan(api, repository, must_reach=yes) for repository in repositories]
        for plan in plans:
            _remark(plan, config, yes)
        done: list[str] = []
        if yes:
            title = f"{release.name}: arm {release.arm}, seed {release.seed}, run {run_hash[:12]}"
            done = [_send(api, plan, config, title, run_hash) for plan in reversed(plans)]
    for line in (*(f"card      {card}" for card in cards), *(f"publish   {line}" for line in done)):
        say(line)
    return _report(plans, bool(done), record.tag_of(run_hash), found, refused)


def _tell(found: Sequence[Refusal], allow: Sequence[str], yes: bool) -> str | None:
    """Say each refusal; the line about those that are not allowed, None if all are. Raises it where `yes` was said."""
    standing = [refusal for refusal in found if refusal.name not in allow]
    for refusal in found:
        if refusal in standing:
            say(f"refused   {refusal.name}: {refusal.why}")
        else:
            say(f"allowed   {refusal.name}: {refusal.why}; the card says so")
    if not standing:
        return None
    told = f"{len(standing)} reasons, above" if len(standing) > 1 else standing[0].why
    ways = " ".join(f"--allow {name}" for name in dict.fromkeys(refusal.name for refusal in standing))
    line = f"publish: refused ({told}); mend it, or answer for it with {ways}, and the card will say it"
    if yes:
        raise ConfigError(line)
    return line


def _places(repository: Repository) -> dict[str, Path]:
    return {path: outgoing.path for path, outgoing in repository.files.items()}


def _experiment(release: releases.Release, config: Config) -> dict[str, Any]:
    """The resolved experiment, of the published arm and seed alone."""
    path = release.run / "experiment.json"
    told = files.read_json(path) if path.exists() else {"arms": {}}
    sections = {**told["arms"].get(release.arm, {}), "publish": config.dump()}
    return {"name": release.name, "seeds": [release.seed], "arms": {release.arm: sections}}


def _keep_cards(run: Path, repositories: Sequence[Repository]) -> list[Path]:
    """Copies of the cards in the run folder, to be read before anything is sent."""
    kept = []
    for repository in repositories:
        path = run / "publish" / f"{repository.kind}-{repository.id.replace('/', '--')}.md"
        files.write_text(path, repository.files[CARD].path.read_text(encoding="utf-8"))
        kept.append(path)
    return kept


def _plan(api: HfApi, repository: Repository, must_reach: bool) -> Plan:
    try:
        remote = _look(api, repository)
    except DistillError as error:
        if must_reach:
            raise
        say(str(error))
        return Plan(repository, None, dict.fromkeys(sorted(repository.files), "added"))
    changes: dict[str, Change] = {}
    for path in sorted(repository.files):
        there = remote.files.get(path)
        same = there is not None and _same(repository.files[path], there)
        changes[path] = "unchanged" if same else "added" if there is None else "changed"
    changes.update(dict.fromkeys(sorted(remote.ours - set(repository.files)), "deleted"))
    return Plan(repository, remote, changes)


def _look(api: HfApi, repository: Repository) -> Remote:
    """The repository on the Hub: its files, its tags, and what of it we put there."""
    id, kind = repository.id, repository.kind

    def ask(work: Callable[[], T]) -> T:
        return hub.patiently("publish", id, work)

    def info() -> Any:
        try:
            return api.repo_info(id, repo_type=kind)
        except Exception as error:
            if hub.not_found(error):
                return None
            raise

    known = ask(info)
    if known is None:
        return Remote(exists=False)
    there = ask(lambda: _tree(api, repository, known.sha))
    tags = ask(lambda: {ref.name: ref.target_commit for ref in api.list_repo_refs(id, repo_type=kind).tags})
    before = _former(api, repository, known.sha) if record.RELEASE in there else None
    ours: frozenset[str] = frozenset()
    if before is not None and before.tag in tags:
        put = next((r.files for r in before.repositories if (r.kind, r.id) == (kind, id)), {})
        then = ask(lambda: _tree(api, repository, tags[before.tag]))
        ours = frozenset(
            path for path in (*put, record.RELEASE)
            if path in there and path in then and there[path].blob_id == then[path].blob_id
        )  # fmt: skip
    return Remote(True, bool(known.private), known.sha, there, tags, ours, before is not None)


def _tree(api: HfApi, repository: Repository, revision: str) -> dict[str, RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    listed = api.list_repo_tree(repository.id, recursive=True, revision=revision, repo_type=repository.kind)
    return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}


def _former(api: HfApi, repository: Repository, revision: str) -> record.Record | None:
    """release.json of the release that is there; None if it is not one of ours."""
    with TemporaryDirectory(prefix="distill-publish-") as scratch:
        path = hub.patiently(
            "publish", repository.id,
            lambda: api.hf_hub_download(
                repository.id, record.RELEASE, repo_type=repository.kind, revision=revision, local_dir=scratch
            ),
        )  # fmt: skip
        try:
            return record.read(Path(path), repository.id)
        except DistillError:
            return None  # somebody else's file of that name: nothing there counts as ours


def _same(outgoing: Outgoing, there: RepoFile) -> bool:
    """Whether the Hub has this very content: by SHA-256 for a large file, by git's hash for a small one."""
    if there.size != outgoing.bytes:
        return False
    return there.lfs.sha256 == outgoing.sha256 if there.lfs is not None else there.blob_id == outgoing.git_oid()


def _remark(plan: Plan, config: Config, yes: bool) -> None:
    """What a person should know before it goes out. Raises ConfigError where a private release would be public."""
    remote, repository = plan.remote, plan.repository
    if remote is None:
        return
    if remote.exists and not remote.private and config.private:
        told = f"{repository} is public, and `publish.private` is true: everybody would see this"
        if yes:
            raise ConfigError(f"publish: {told}; say `--public` if that is meant")
        say(f"publish   {told}; `--yes` needs `--public` with it")
    if remote.exists and remote.private and not config.private:
        say(f"publish   {repository} is private and stays so; make it public on its page")
    if remote.exists and not remote.published_before and CARD in plan.paths("changed"):
        say(f"publish   {repository}: its {CARD} is not of this tool, and the card takes its place")


def _send(api: HfApi, plan: Plan, config: Config, title: str, run_hash: str) -> str:
    """Make one repository what it shall be; returns what was done, in a line."""
    remote, repository = plan.remote, plan.repository
    assert remote is not None  # with `yes` a Hub that is not reached has ended it before
    id, kind, tag = repository.id, repository.kind, record.tag_of(run_hash)
    head, commit, sent_s = remote.head, None, 0.0
    if not remote.exists:
        hub.patiently("publish", id, lambda: api.create_repo(id, repo_type=kind, private=config.private, exist_ok=True))
        made = hub.patiently("publish", id, lambda: api.repo_info(id, repo_type=kind))
        if config.private and not made.private:
            raise DistillError(f"publish {id}: was to be private, and the Hub has it public; nothing was sent to it")
        head = made.sha
    if plan.paths("added", "changed", "deleted"):
        began_s = time.monotonic()
        commit = hub.patiently("publish", id, lambda: _commit(api, plan, title, run_hash, head))
        sent_s = time.monotonic() - began_s
    elsewhere = remote.tags.get(tag) not in (None, commit)
    if commit is not None or tag not in remote.tags:
        if commit is not None and elsewhere:  # this run was here before, under another tool's card, say
            hub.patiently("publish", id, lambda: api.delete_tag(id, tag=tag, repo_type=kind))
        hub.patiently(
            "publish", id,
            lambda: api.create_tag(id, tag=tag, revision=commit or head, repo_type=kind, exist_ok=True),
        )  # fmt: skip
    if commit is None:
        return f"{repository}: nothing has changed"
    n_files, n_gone = len(plan.paths("added", "changed")), len(plan.paths("deleted"))
    gone = f", {n_gone:,} deleted" if n_gone else ""
    return f"{repository}: {n_files:,} files, {short(plan.n_bytes)}B{gone}, in {sent_s:,.1f} s; commit {commit[:12]}"


def _commit(api: HfApi, plan: Plan, title: str, run_hash: str, head: str | None) -> str:
    """One commit with all that differs; its hash.

    It names its parent, so that nobody's change of the meantime is lost, and so that a try whose answer was lost on the
    way cannot be made twice.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository = plan.repository
    operations: list[Any] = [
        CommitOperationAdd(path, str(repository.files[path].path)) for path in plan.paths("added", "changed")
    ]
    operations += [CommitOperationDelete(path, is_folder=False) for path in plan.paths("deleted")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            made = api.create_commit(
                repository.id, operations, commit_message=title, commit_description=f"run {run_hash}",
                repo_type=repository.kind, parent_commit=head,
            )  # fmt: skip
        except Exception as error:
            if hub.status_of(error) != 412:
                raise
            landed = _landed(api, plan)
            if landed is None:
                raise
            return landed
    for warning in told:
        if "metadata in README.md" in str(warning.message):
            say(f"publish   {repository}: {hub.clean(str(warning.message))}")
    return str(made.oid)


def _landed(api: HfApi, plan: Plan) -> str | None:
    """The head, if it already is what we wanted to make of it: our commit arrived, its answer did not."""
    repository = plan.repository
    head = str(api.repo_info(repository.id, repo_type=repository.kind).sha)
    there = _tree(api, repository, head)
    wanted = all(path in there and _same(outgoing, there[path]) for path, outgoing in repository.files.items())
    return head if wanted and not any(path in there for path in plan.paths("deleted")) else None


def _report(plans: Sequence[Plan], sent: bool, tag: str, found: Sequence[Refusal], refused: str | None) -> Report:
    rows = []
    for plan in plans:
        for path, change in plan.changes.items():
            outgoing = plan.repository.files.get(path)
            rows.append({
                "repository": str(plan.repository), "file": path,
                "size": "-" if outgoing is None else f"{short(outgoing.bytes)}B",
                "change": "unknown" if plan.remote is None else change,
            })  # fmt: skip
    data = {
        "tag": tag,
        "sent": sent,
        "refusals": [{"name": refusal.name, "why": refusal.why} for refusal in found],
        "repositories": [
            {
                "kind": plan.repository.kind, "id": plan.repository.id, "parts": list(plan.repository.parts),
                "exists": None if plan.remote is None else plan.remote.exists,
                "private": None if plan.remote is None else plan.remote.private,
                "bytes": plan.n_bytes, "changes": dict(plan.changes),
            }
            for plan in plans
        ],
    }  # fmt: skip
    return Report(summary=_summary(plans, sent, tag), rows=rows, data=data, missed=refused)


def _summary(plans: Sequence[Plan], sent: bool, tag: str) -> str:
    parts = []
    for plan in plans:
        n = {kind: len(plan.paths(kind)) for kind in ("added", "changed", "deleted", "unchanged")}
        if plan.remote is None:
            told = f"{n['added']:,} files, what is there is unknown"
        elif not (n["added"] or n["changed"] or n["deleted"]):
            told = "nothing to change"
        else:
            changes = ", ".join(f"{n[kind]:,} {kind}" for kind in ("added", "changed", "deleted") if n[kind])
            told = f"{'' if plan.remote.exists else 'new, '}{changes}, {short(plan.n_bytes)}B"
        parts.append(f"{plan.repository}: {told}")
    end = f"tag {tag}" if sent else "nothing was sent; `--yes` sends it"
    return f"{'; '.join(parts)}; {end}"
