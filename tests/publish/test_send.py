"""`distill publish` through huggingface_hub's own client, against a server process that speaks the Hub's protocol."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from distill.publish import record
from tests.e2e import small
from tests.publish import made_run
from tests.publish.conftest import repo_of
from tests.publish.process import WRITER, HubProcess
from tests.publish.sending import ALLOW, GGUF, MODEL, last_line, publish, sha256, writes


def test_without_yes_nothing_is_touched_and_everything_is_shown(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    done = publish(hub, made)

    assert done.returncode == 0, done.stderr
    assert writes(hub) == []
    assert not hub.has(repo_of(tmp_path))
    for word in (MODEL, "2.3MB", GGUF, "distill/release.json", "added", "nothing was sent"):
        assert word in done.stdout
    card = made / "publish" / f"model-{repo_of(tmp_path).replace('/', '--')}.md"
    assert card.read_text().startswith("---\n") and card.name in done.stderr


def test_published_once(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    done = publish(hub, made, "--yes")

    assert done.returncode == 0, done.stderr
    state = hub.state(repo_of(tmp_path))
    assert state["private"]
    model = next(made.glob("export-*")) / "safetensors" / "student" / MODEL
    assert state["files"][MODEL]["sha256"] == sha256(model)
    assert state["files"][GGUF]["size"] == 200_004
    assert "Modelfile.q8_0" in state["files"] and "README.md" in state["files"]
    (ours, made_by_hub) = state["commits"]
    assert made_by_hub["title"] == "initial commit"
    ((tag, sha),) = state["tags"].items()
    assert sha == ours["sha"] == state["head"]
    assert tag.removeprefix("distill-") in ours["title"]


def test_only_listed_files_go_and_none_tells_of_this_machine(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    assert publish(hub, made, "--yes").returncode == 0
    state = hub.state(repo_of(tmp_path))

    paths = set(state["files"])
    assert not [path for path in paths if path.endswith((".bin", ".pt", ".pkl", ".log", "rejected.json"))]
    assert not [path for path in paths if "samples" in path or "verdicts" in path or "problems.parquet" in path]
    for path in paths:
        assert str(tmp_path).encode() not in hub.content(repo_of(tmp_path), path), path
    told = hub.content(repo_of(tmp_path), next(path for path in paths if path.endswith("manifest.json")))
    assert b'"where": "made"' in told  # the manifest here has the whole path


def test_a_second_time_changes_nothing(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    assert publish(hub, made, "--yes").returncode == 0
    before = hub.state(repo_of(tmp_path))
    hub.forget()

    done = publish(hub, made, "--yes")

    assert done.returncode == 0, done.stderr
    assert writes(hub) == []
    assert hub.state(repo_of(tmp_path)) == before
    assert "nothing to change" in done.stdout


def test_of_a_changed_run_only_the_changed_files_move(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    assert publish(hub, made, "--yes").returncode == 0
    before = hub.state(repo_of(tmp_path))
    other = made_run.make(tmp_path / "other" / "made", weights=1, publish={"repo": repo_of(tmp_path)})
    hub.forget()

    done = hub.quickly(tmp_path, "publish", str(other), *ALLOW, "--yes")

    assert done.returncode == 0, done.stderr
    after = hub.state(repo_of(tmp_path))
    same = {path for path, file in after["files"].items() if before["files"].get(path) == file}
    assert {MODEL, GGUF}.isdisjoint(same) and {"tokenizer.json", "config.json", "Modelfile.q8_0"} <= same
    there = {file["sha256"] for file in before["files"].values()}
    new = {file["sha256"]: file["size"] for file in after["files"].values() if file["large"]}
    assert hub.sent() == sum(size for content, size in new.items() if content not in there)
    assert len(after["commits"]) == len(before["commits"]) + 1
    assert len(after["tags"]) == 2 and set(before["tags"].items()) < set(after["tags"].items())
    gone = {path for path in before["files"] if path not in after["files"]}
    assert gone and all(path.startswith("distill/") for path in gone)  # stages that this run does not have


def test_files_of_others_stay_and_ours_go_when_they_are_no_longer_there(
    hub: HubProcess, made: Path, tmp_path: Path
) -> None:
    repo = repo_of(tmp_path)
    hub.make(repo, {"notes.txt": b"by hand, before"})
    assert publish(hub, made, "--yes").returncode == 0
    hub.make(repo, {"pictures.txt": b"by hand, after", "Modelfile.q8_0": b"FROM ./mine.gguf\n"})

    done = publish(hub, made, "--yes", "--set", "publish.what=[model]")

    assert done.returncode == 0, done.stderr
    files = hub.state(repo)["files"]
    assert {"notes.txt", "pictures.txt", ".gitattributes"} - set(files) <= {".gitattributes"}
    assert GGUF not in files and "Modelfile.q8_0" in files  # ours, and somebody changed it since
    assert MODEL in files


def test_killed_in_the_middle_it_goes_on_and_sends_nothing_twice(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    assert publish(hub, made, "--yes", "--set", "publish.what=[gguf]", "--repo", "you/warm-up").returncode == 0
    hub.forget()
    hub.fail({"on": "PUT /storage/part/", "times": 9, "stall_after": 300_000})
    command = small.command("publish", str(made), *ALLOW, "--yes")
    environment = small.environment(hub.environment(tmp_path / "hf-home"))
    killed = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + 60
    while not (_whole(hub) and any(n["bytes"] >= 300_000 and n["status"] is None for n in hub.log())):
        assert time.monotonic() < deadline_s and killed.poll() is None
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(hub.state(repo_of(tmp_path))["commits"]) == 1
    arrived = _whole(hub)
    hub.forget()

    done = publish(hub, made, "--yes")

    assert done.returncode == 0, done.stderr
    files = hub.state(repo_of(tmp_path))["files"]
    assert arrived >= 200_004
    assert hub.sent() == sum(file["size"] for file in files.values() if file["large"]) - arrived
    assert sha256(next(made.glob("export-*")) / "safetensors" / "student" / MODEL) == files[MODEL]["sha256"]


def _whole(hub: HubProcess) -> int:
    """Bytes of the objects that have arrived whole, once all but the stalled one have."""
    notes = [note for note in hub.log() if note["asked"].startswith("PUT /storage/whole/")]
    batches = [note for note in hub.log() if note["asked"].endswith("/info/lfs/objects/batch")]
    verified = [note for note in hub.log() if note["asked"].endswith("/lfs-verify") and note["status"] == 200]
    whole = [note for note in notes if note["status"] == 200]
    return sum(note["bytes"] for note in whole) if batches and len(verified) == len(whole) >= 5 else 0


def test_a_kill_between_commit_and_tag_leaves_a_tag_to_be_made(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    hub.fail({"on": f"POST /api/models/{repo_of(tmp_path)}/tag/", "times": 9, "status": 403})
    assert publish(hub, made, "--yes").returncode == 1
    assert hub.state(repo_of(tmp_path))["tags"] == {}
    hub.forget()

    assert publish(hub, made, "--yes").returncode == 0

    head = hub.state(repo_of(tmp_path))["head"]
    assert writes(hub) == [f"POST /api/models/{repo_of(tmp_path)}/tag/{head}"]
    assert len(hub.state(repo_of(tmp_path))["tags"]) == 1


def test_the_token_is_nowhere_but_in_the_hubs_own_header(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    hub.fail({"on": "PUT /storage/part/", "status": 503}, {"on": "POST /api/repos/create", "status": 500})
    command = ("publish", str(made), *ALLOW, "--yes")
    done = hub.run(tmp_path, *command, HF_DEBUG="1", HF_HUB_VERBOSITY="debug")

    assert done.returncode == 0, done.stderr
    assert WRITER not in done.stdout + done.stderr
    assert "X-Signature=" not in done.stdout + done.stderr  # of a storage address: whoever has it may write there
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or WRITER.encode() not in path.read_bytes(), path
    for path in hub.state(repo_of(tmp_path))["files"]:
        assert WRITER.encode() not in hub.content(repo_of(tmp_path), path), path
    assert not [note for note in hub.log() if WRITER in note["url"]]
    to_storage = [note for note in hub.log() if note["storage"]]
    assert to_storage and not [note for note in to_storage if note["authorized"]]
    to_the_hub = [note for note in hub.log() if not note["storage"] and "complete-multipart" not in note["url"]]
    assert all(note["authorized"] for note in to_the_hub)


def test_a_public_repository_is_said_and_needs_a_word(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    repo = repo_of(tmp_path)
    hub.make(repo, {"README.md": b"somebody's own"}, private=False)
    dry = publish(hub, made)
    assert dry.returncode == 0
    assert f"{repo} is public" in dry.stderr and "is not of this tool" in dry.stderr

    refused = publish(hub, made, "--yes")
    assert refused.returncode == 2
    assert "--public" in last_line(refused)
    assert writes(hub) == []

    assert publish(hub, made, "--yes", "--public").returncode == 0
    assert MODEL in hub.state(repo)["files"] and not hub.state(repo)["private"]


def test_public_makes_a_new_repository_public(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    assert publish(hub, made, "--yes", "--public").returncode == 0
    assert not hub.state(repo_of(tmp_path))["private"]


def test_several_repositories_the_one_with_the_record_last(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    repo = repo_of(tmp_path)
    settings = [f"publish.gguf_repo={repo}-GGUF", f"publish.dataset_repo={repo}-traces"]
    done = publish(hub, made, "--yes", *(word for text in settings for word in ("--set", text)))

    assert done.returncode == 0, done.stderr
    model, gguf, traces = hub.state(repo), hub.state(f"{repo}-GGUF"), hub.state(f"{repo}-traces", "dataset")
    assert MODEL in model["files"] and GGUF not in model["files"]
    assert GGUF in gguf["files"] and "README.md" in gguf["files"]
    assert any(path.endswith("traces.parquet") and path.startswith("distill/filter-") for path in traces["files"])
    assert set(model["tags"]) == set(gguf["tags"]) == set(traces["tags"])
    commits = [note["asked"] for note in hub.log() if "/commit/" in note["asked"]]
    assert [f"/{repo}/" in asked for asked in commits] == [False, False, True]
    told = {hub.content(*where) for where in ((repo, record.RELEASE), (f"{repo}-GGUF", record.RELEASE))}
    assert len(told) == 1


def test_what_is_not_what_was_proved_is_refused(hub: HubProcess, made: Path) -> None:
    model = next(made.glob("export-*")) / "safetensors" / "student" / MODEL
    model.write_bytes(bytes(made_run.WEIGHTS))
    done = publish(hub, made, "--yes")
    assert done.returncode == 1
    assert "nothing proves it" in last_line(done)
    assert writes(hub) == []


def test_what_is_refused_is_shown_and_not_sent(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    dry = hub.quickly(tmp_path, "publish", str(made))
    assert dry.returncode == 3
    assert MODEL in dry.stdout and "refused   nothing-measured: " in dry.stderr
    assert "--allow nothing-measured" in last_line(dry)

    sent = hub.quickly(tmp_path, "publish", str(made), "--yes")
    assert sent.returncode == 2
    assert "--allow nothing-measured" in last_line(sent)
    assert writes(hub) == []


def test_wrong_words(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    cases = {
        ("--allow", "everything"): "there is no such refusal",
        ("--set", "publish.what=[adapter]"): "asks for adapter",
        ("--set", "publish.what=[dataset]"): "name its repository",
        ("--set", "train.epochs=1"): "only `publish.`",
        ("--repo", "no-owner"): "`owner/name`",
        ("--repo", "you/../x"): "`owner/name`",
        ("--arm", "other"): "other",
        ("--seed", "7"): "no seed 7",
    }
    for words, told in cases.items():
        done = publish(hub, made, *words)
        assert done.returncode in (1, 2), words
        assert told in last_line(done), (words, last_line(done))
    assert hub.quickly(tmp_path, "publish", str(tmp_path)).returncode == 2
    assert writes(hub) == []
