"""What goes wrong on the way to the Hub: tried again where that helps, else one line with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import small
from tests.publish import made_run
from tests.publish.conftest import repo_of
from tests.publish.process import READER, HubProcess
from tests.publish.sending import ALLOW, GGUF, MODEL, last_line, publish, writes


def test_a_cut_connection_is_taken_up_again(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    hub.fail({"on": "PUT /storage/part/", "times": 1, "cut_after": 300_000})

    done = publish(hub, made, "--yes")

    assert done.returncode == 0, done.stderr
    assert [note["status"] for note in hub.log() if note["asked"].startswith("PUT /storage/part/")].count("cut") == 1
    assert hub.state(repo_of(tmp_path))["files"][MODEL]["size"] == made_run.WEIGHTS


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    hub.fail({"on": f"POST /api/models/{repo_of(tmp_path)}/commit/", "swallow": True})

    done = publish(hub, made, "--yes")

    assert done.returncode == 0, done.stderr
    state = hub.state(repo_of(tmp_path))
    assert len(state["commits"]) == 2
    assert list(state["tags"].values()) == [state["head"]]


@pytest.mark.parametrize(
    ("token", "words"), [("hf_NobodyKnowsThisOne012345678901234", ["401", "hf auth login"]), (None, ["hf auth login"])]
)
def test_without_a_login_that_holds(hub: HubProcess, made: Path, token: str | None, words: list[str]) -> None:
    done = publish(hub, made, "--yes", token=token)
    assert done.returncode == 1
    line = last_line(done)
    assert all(word in line for word in words)
    assert writes(hub) == []
    assert token is None or token not in done.stderr


def test_a_token_that_may_only_read(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    done = publish(hub, made, "--yes", token=READER)
    assert done.returncode == 1
    assert "403" in last_line(done) and "token that can write" in last_line(done)
    assert not hub.has(repo_of(tmp_path))


@pytest.mark.parametrize(
    ("on", "status", "words"),
    [
        ("POST /api/repos/create", 401, ["401", "hf auth login"]),
        ("POST /api/models/{repo}/preupload/", 404, ["404", "check the name"]),
        ("POST /api/models/{repo}/commit/", 409, ["409", "try again in a minute"]),
        ("POST /api/models/{repo}/commit/", 412, ["412", "changed the repository"]),
        ("POST /api/models/{repo}/commit/", 413, ["413", "fewer"]),
        ("POST /api/models/{repo}/commit/", 400, ["400", "planned", "its own words"]),
        ("POST /api/models/{repo}/commit/", 429, ["429", "the same command goes on"]),
        ("POST /api/models/{repo}/commit/", 500, ["500", "trouble", "the same command goes on"]),
        ("POST /{repo}.git/info/lfs/objects/batch", 403, ["403", "token that can write"]),
        ("PUT /storage/", 403, ["403"]),
    ],
)
def test_every_fault_is_one_line_with_what_to_do(
    hub: HubProcess, made: Path, tmp_path: Path, on: str, status: int, words: list[str]
) -> None:
    hub.fail({"on": on.format(repo=repo_of(tmp_path)), "times": 99, "status": status})

    done = publish(hub, made, "--yes")

    assert done.returncode == 1, done.stderr
    line = last_line(done)
    assert line.startswith(f"distill: publish {repo_of(tmp_path)}: ") and all(word in line for word in words), line


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_pass_is_tried_again(hub: HubProcess, made: Path, tmp_path: Path, status: int) -> None:
    repo = repo_of(tmp_path)
    hub.fail(
        {"on": f"GET /api/models/{repo}", "status": status, "headers": {"Retry-After": "0"}},
        {"on": "POST /api/repos/create", "status": status},
        {"on": f"POST /api/models/{repo}/commit/", "status": status, "headers": {"Retry-After": "0"}},
        {"on": f"POST /api/models/{repo}/tag/", "status": status},
    )

    done = publish(hub, made, "--yes")

    assert done.returncode == 0, done.stderr
    assert f"the Hub answers {status}" in done.stderr and "trying again in 0 s" in done.stderr
    assert len(hub.state(repo)["commits"]) == 2 and len(hub.state(repo)["tags"]) == 1


def test_nor_is_one_that_deletes(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    assert publish(hub, made, "--yes").returncode == 0
    hub.fail({"on": f"POST /api/models/{repo_of(tmp_path)}/commit/", "swallow": True})

    done = publish(hub, made, "--yes", "--set", "publish.what=[model]")

    assert done.returncode == 0, done.stderr
    state = hub.state(repo_of(tmp_path))
    assert len(state["commits"]) == 3 and GGUF not in state["files"]
    assert list(state["tags"].values()) == [state["head"]]


def test_a_repository_that_came_out_public_gets_nothing(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    hub.fail({"on": "POST /api/repos/create", "opens": True})
    done = publish(hub, made, "--yes")
    assert done.returncode == 1
    assert "was to be private" in last_line(done)
    assert MODEL not in hub.state(repo_of(tmp_path))["files"]


def test_what_somebody_commits_meanwhile_is_not_written_over(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    repo = repo_of(tmp_path)
    theirs = {"kind": "model", "id": repo, "title": "theirs", "files": {"config.json": "e30="}}
    hub.fail({"on": f"POST /api/models/{repo}/commit/", "meanwhile": theirs})

    done = publish(hub, made, "--yes")

    assert done.returncode == 1
    assert "412" in last_line(done) and "run the command again" in last_line(done)
    assert hub.content(repo, "config.json") == b"{}" and hub.state(repo)["commits"][0]["title"] == "theirs"
    hub.forget()
    assert publish(hub, made, "--yes").returncode == 0
    assert "theirs" in [commit["title"] for commit in hub.state(repo)["commits"]]


def test_a_wait_that_is_too_long_is_the_persons_to_decide(hub: HubProcess, made: Path) -> None:
    hub.fail({"on": "POST /api/repos/create", "status": 429, "headers": {"Retry-After": "3600"}})
    done = publish(hub, made, "--yes")
    assert done.returncode == 1
    assert "429" in last_line(done) and "3600" in last_line(done)


def test_a_used_up_rate_limit_says_how_long(hub: HubProcess, made: Path) -> None:
    used_up = {"RateLimit": '"api";r=0;t=900', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.fail({"on": "POST /api/repos/create", "status": 429, "headers": used_up})
    done = publish(hub, made, "--yes")
    assert done.returncode == 1
    assert "wait 901 s" in last_line(done)


def test_without_a_network(hub: HubProcess, made: Path) -> None:
    hub.fail({"on": "GET /api/", "times": 99, "cut_after": 0})
    done = publish(hub, made, "--yes")
    assert done.returncode == 1
    assert "cannot be reached" in last_line(done) and "check the network" in last_line(done)

    dry = publish(hub, made)
    assert dry.returncode == 0, dry.stderr
    assert "cannot be reached" in dry.stderr and "unknown" in dry.stdout


def test_told_to_stay_offline(hub: HubProcess, made: Path) -> None:
    done = hub.run(made.parents[1], "publish", str(made), *ALLOW, "--yes", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE" in last_line(done)


def test_a_connection_on_which_nothing_moves_is_given_up(hub: HubProcess, made: Path, tmp_path: Path) -> None:
    hub.fail({"on": f"POST /api/models/{repo_of(tmp_path)}/commit/", "times": 9, "stall_after": 1, "stall_s": 20})
    soon = "import distill.publish.hub as h; h.SILENCE_S, h.WAITS_S = 1.0, (); from distill.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", soon, "publish", str(made), *ALLOW, "--yes"],
        cwd=tmp_path, env=small.environment(hub.environment(tmp_path / "hf-home")),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be reached" in last_line(done) and "the same command goes on" in last_line(done)
