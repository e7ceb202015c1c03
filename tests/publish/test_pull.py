"""`distill pull`: a published run comes back with hashes that check, and a hostile repository gets nothing written."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.core import rundir
from distill.publish import record
from tests.publish import made_run
from tests.publish.process import READER, HubProcess
from tests.publish.sending import ALLOW, MODEL

STORED = "GET /storage/blob/"


@pytest.fixture(scope="module")
def published(running_hub: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run and where it was published: the model there, its traces in `...-traces`."""
    folder = tmp_path_factory.mktemp("published")
    made = made_run.make(folder / "runs" / "made", publish={"repo": "you/pulled", "dataset_repo": "you/pulled-traces"})
    done = running_hub.quickly(folder, "publish", str(made), *ALLOW, "--yes")
    assert done.returncode == 0, done.stderr
    return made, running_hub.state("you/pulled")["head"]


@pytest.fixture
def made(published: tuple[Path, str]) -> Path:
    """The run that was published. Read it, never change it."""
    return published[0]


@pytest.fixture
def repo(hub: HubProcess, published: tuple[Path, str]) -> str:
    """Its repository, as it was published."""
    hub.back("you/pulled", published[1])
    return "you/pulled"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where nothing is yet."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def fault(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is one line."""
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of all files below, by path."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def test_a_run_comes_back_in_its_places(hub: HubProcess, repo: str, made: Path, place: Path) -> None:
    done = hub.quickly(place, "pull", repo)

    assert done.returncode == 0, done.stderr
    run = place / "runs" / "made"
    there, here = files(made), files(run)
    for stage in ("train", "export"):
        folder = next(made.glob(f"{stage}-*")).name
        model = {"train": "student", "export": "safetensors/student"}[stage]
        assert here[f"{folder}/{model}/{MODEL}"] == there[f"{folder}/{model}/{MODEL}"]
    own = {"absent.json", "manifest.json", "run.json", "experiment.json", "experiment.yaml", "pulled.json"}
    outputs = {name: content for name, content in here.items() if name.rpartition("/")[2] not in own and name[0] != "."}
    assert len(outputs) >= 20 and outputs.items() <= there.items()
    assert f"{next(made.glob('filter-*')).name}/traces.parquet" in outputs
    index = rundir.read_index(run)
    for stage in index["arms"]["main"]["0"].values():
        manifest = rundir.finished(run / stage["folder"], stage["key"])
        assert manifest is not None
        own_manifest = json.loads((made / stage["folder"] / rundir.MANIFEST).read_text())
        assert manifest.content == own_manifest["content"] and manifest.data["files"] == own_manifest["files"]
    assert rundir.absent(run / index["arms"]["main"]["0"]["sample"]["folder"]) == {"samples.parquet"}
    assert not (run / ".pull").exists()
    assert not [note for note in hub.log() if note["storage"] and note["authorized"]]


def test_pulled_again_nothing_is_fetched_twice(hub: HubProcess, repo: str, place: Path) -> None:
    assert hub.quickly(place, "pull", repo).returncode == 0
    first = [note["asked"] for note in hub.log() if note["asked"].startswith(STORED)]
    assert len(first) == len(set(first))  # the model lies in two places and was fetched once
    before = files(place / "runs")
    hub.forget()

    done = hub.quickly(place, "pull", repo)

    assert done.returncode == 0, done.stderr
    again = [note["asked"] for note in hub.log() if note["asked"].startswith(STORED)]
    told = ("manifest.json", "release.json", "experiment.json")  # which say what there is
    contents = {path: file["sha256"] for path, file in hub.state(repo)["files"].items()}
    assert set(again) <= {f"{STORED}{content}" for path, content in contents.items() if path.endswith(told)}
    assert files(place / "runs") == before


def test_a_half_pull_goes_on(hub: HubProcess, repo: str, place: Path) -> None:
    model = hub.state(repo)["files"][MODEL]["sha256"]
    hub.fail({"on": STORED + model, "times": 99, "status": 500})
    assert "500" in fault(hub.quickly(place, "pull", repo))
    run = place / "runs" / "made"
    assert not list(run.glob("*/manifest.json"))  # so no stage is done
    placed = [path for path in run.rglob("*.json") if path.parent.name == "student"]
    assert placed
    hub.forget()

    assert hub.quickly(place, "pull", repo).returncode == 0

    fetched = {note["asked"] for note in hub.log() if "/resolve/" in note["asked"]}
    assert any(asked.endswith(f"/{MODEL}") for asked in fetched)
    assert not any(asked.endswith(f"/{path.name}") for path in placed for asked in fetched)


def test_killed_in_the_middle_it_leaves_nothing_half(hub: HubProcess, repo: str, place: Path) -> None:
    killed = hub.run(place, "pull", repo, DISTILL_CRASH_AT="file.before-rename:9")
    assert killed.returncode == -signal.SIGKILL
    assert list(place.rglob("*.partial-*")) and not list((place / "runs" / "made").glob("*/manifest.json"))

    assert hub.quickly(place, "pull", repo).returncode == 0
    assert not list(place.rglob("*.partial-*")) and not list(place.rglob(".pull"))
    assert len(list(place.rglob("manifest.json"))) == 7


def test_a_damaged_file_is_fetched_anew(hub: HubProcess, repo: str, place: Path) -> None:
    assert hub.quickly(place, "pull", repo).returncode == 0
    model = next((place / "runs" / "made").glob("train-*")) / "student" / MODEL
    whole = model.read_bytes()
    model.unlink()
    model.write_bytes(bytes(len(whole)))

    assert hub.quickly(place, "pull", repo).returncode == 0
    assert model.read_bytes() == whole


def test_a_cut_download_is_taken_up(hub: HubProcess, repo: str, place: Path) -> None:
    hub.fail({"on": STORED, "times": 2, "swallow": True})
    assert hub.quickly(place, "pull", repo).returncode == 0


@pytest.mark.parametrize("content", [bytes(made_run.WEIGHTS), b"shorter"])
def test_a_changed_file_is_refused_by_its_hash(hub: HubProcess, repo: str, place: Path, content: bytes) -> None:
    hub.make(repo, {MODEL: content}, title="somebody's")
    told = fault(hub.quickly(place, "pull", repo))
    assert MODEL in told and "changed since it was published" in told
    assert not list(place.rglob(MODEL)) and not list(place.rglob("manifest.json"))

    (tag,) = hub.state(repo)["tags"]
    assert hub.quickly(place, "pull", repo, "--revision", tag).returncode == 0
    assert list(place.rglob(MODEL))


def test_from_the_dataset_it_is_the_same_run(hub: HubProcess, repo: str, place: Path) -> None:
    assert hub.quickly(place, "pull", f"datasets/{repo}-traces").returncode == 0
    assert hub.quickly(place, "pull", f"{repo}-traces", "--name", "again").returncode == 0  # no such model
    ours, again = (files(place / "runs" / name) for name in ("made", "again"))
    same = {name for name in ours if not name.startswith(".") and "/" in name}
    assert len(same) >= 20 and {ours[name] == again[name] for name in same} == {True}


def test_without_one_of_its_repositories_the_rest_comes(hub: HubProcess, repo: str, place: Path) -> None:
    hub.fail({"on": f"GET /api/datasets/{repo}-traces", "times": 99, "status": 403})
    done = hub.quickly(place, "pull", repo)
    assert done.returncode == 0
    assert f"{repo}-traces" in done.stderr and "goes without" in done.stderr
    folder = next((place / "runs" / "made").glob("filter-*"))
    assert "traces.parquet" in rundir.absent(folder)


def test_a_folder_that_is_there_is_left_alone(hub: HubProcess, repo: str, place: Path) -> None:
    own = made_run.make(place / "runs" / "made", weights=2)
    before = files(own)
    told = fault(hub.quickly(place, "pull", repo))
    assert "was not pulled" in told and "--name" in told
    assert files(own) == before
    assert hub.quickly(place, "pull", repo, "--name", "theirs").returncode == 0
    experiment = json.loads((place / "runs" / "theirs" / "experiment.json").read_text())
    assert experiment["name"] == "theirs"
    assert "../x" in fault(hub.quickly(place, "pull", repo, "--name", "../x"))


def test_another_run_does_not_mix_with_it(hub: HubProcess, repo: str, tmp_path: Path, place: Path) -> None:
    assert hub.quickly(place, "pull", repo).returncode == 0
    other = made_run.make(tmp_path / "other" / "made", weights=1, publish={"repo": repo})
    assert hub.quickly(tmp_path, "publish", str(other), *ALLOW, "--yes").returncode == 0
    assert "of another run" in fault(hub.quickly(place, "pull", repo))


def test_who_may_not_see_it(hub: HubProcess, repo: str, place: Path) -> None:
    assert hub.quickly(place, "pull", repo, token=READER).returncode == 0
    told = fault(hub.quickly(place, "pull", repo, "--name", "more", token=None))
    assert "401" in told and "login" in told
    told = fault(hub.quickly(place, "pull", "you/nothing-here"))
    assert "404" in told and "check the name" in told
    told = fault(hub.quickly(place, "pull", repo, "--revision", "no-such", "--name", "more"))
    assert "404" in told and "no-such" in told
    for word in ("nothing", "a/b/c", "../x", "you/x.git", "https://huggingface.co/you/x"):
        assert "`owner/name`" in fault(hub.quickly(place, "pull", word))
    hub.make(f"{repo}-plain", {"config.json": b"{}"})
    told = fault(hub.quickly(place, "pull", f"{repo}-plain"))
    assert "was not published by `distill publish`" in told


def _in_files(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """A change of the files of the first repository in release.json."""
    return lambda told: change(told["repositories"][0]["files"])


SOME = {"sha256": "0" * 64, "bytes": 3}
HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "up": _in_files(lambda files: files.update({"../../evil.json": SOME})),
    "inside up": _in_files(lambda files: files.update({"distill/../../evil.json": SOME})),
    "root": _in_files(lambda files: files.update({"/etc/evil.json": SOME})),
    "hidden": _in_files(lambda files: files.update({".ssh/evil.json": SOME})),
    "backslash": _in_files(lambda files: files.update({"..\\evil.json": SOME})),
    "control": _in_files(lambda files: files.update({"evil\n.json": SOME})),
    "pickle": _in_files(lambda files: files.update({"pytorch_model.bin": SOME})),
    "code": _in_files(lambda files: files.update({"modeling_evil.py": SOME})),
    "name": lambda told: told.update(name="../evil"),
    "arm": lambda told: told.update(arm="a/../../b"),
    "folder": lambda told: told["stages"]["train"].update(folder="../../evil"),
    "other folder": lambda told: told["stages"]["train"].update(folder="train-000000000000"),
    "extra": lambda told: told.update(run_this="curl"),
    "repository": lambda told: told["repositories"][1].update(id="../../x"),
    "no hash": _in_files(lambda files: files[MODEL].update(sha256="abc")),
    "negative": _in_files(lambda files: files[MODEL].update(bytes=-1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_refused_whole(hub: HubProcess, repo: str, place: Path, name: str) -> None:
    told = json.loads(hub.content(repo, record.RELEASE))
    HOSTILE[name](told)
    hub.make(repo, {record.RELEASE: json.dumps(told).encode()})
    said = fault(hub.quickly(place, "pull", repo))

    assert said.startswith(f"distill: pull {repo}: ")
    assert not [path for path in place.rglob("*") if path.is_file() and path.name not in ("last.out", "last.err")]
    assert not list(place.parent.rglob("*evil*"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data["files"].update({"../../evil.json": SOME}), "lead out"),
        (lambda data: data["files"].update({"student/../../../evil.json": SOME}), "lead out"),
        (lambda data: data.update(content="0" * 64), "content hash"),
        (lambda data: data.update(key="0" * 64), "no manifest of this stage"),
        (lambda data: data.update(files=[]), "no manifest of this stage"),
        (lambda data: data["files"]["report.json"].update(sha256="0" * 64), "content hash"),
    ],
)
def test_a_hostile_manifest_is_refused(
    hub: HubProcess, repo: str, place: Path, change: Callable[[dict[str, Any]], None], word: str
) -> None:
    """A record that vouches for it makes it no better."""
    told = json.loads(hub.content(repo, record.RELEASE))
    path = f"distill/{told['stages']['train']['folder']}/manifest.json"
    data = json.loads(hub.content(repo, path))
    change(data)
    content = json.dumps(data).encode()
    told["repositories"][0]["files"][path] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    hub.make(repo, {path: content, record.RELEASE: json.dumps(told).encode()})

    assert word in fault(hub.quickly(place, "pull", repo))
    assert not list(place.parent.rglob("evil.json"))
    assert not list(place.rglob(MODEL))


def test_a_renamed_copy_says_where_the_run_is(hub: HubProcess, repo: str, place: Path) -> None:
    hub.make(f"{repo}-fork", {record.RELEASE: hub.content(repo, record.RELEASE)})
    told = fault(hub.quickly(place, "pull", f"{repo}-fork"))
    assert f"pull {repo}" in told
