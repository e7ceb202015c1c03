"""`distill runs`: what is listed, what differs, and that nothing goes that was not asked for, or only half."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from distill import experiment, pipeline, runs
from distill.cli import app
from distill.core import files, rundir
from distill.core.errors import Busy, ConfigError, DistillError
from distill.core.stage import Workspace
from tests import stub_stages

STAGES = ("problems", "sample", "import", "verify", "filter", "score", "train", "evaluate", "export")
SECTIONS: dict[str, Any] = {
    "problems": {"source": {"source": "embedded", "seed": 0}, "train": 10},
    "teacher": {"model": "embedded-teacher"},
    "train": {"epochs": 3, "loss": {"name": "forward_kl", "weight": 0.5}},
    "evaluate": {"models": ["base", "student"]},
    "export": {"formats": []},
}
WHEN = {
    "problems": "2026-01-02T03:04:05+00:00",
    "train": "2026-01-02T04:00:00+00:00",
    "evaluate": "2026-01-02T05:00:00+00:00",
}
RATE = {"k": 8, "n": 10, "value": 0.8, "low": 0.5, "high": 0.95}


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with a ledger and log-probabilities that all runs share."""
    (tmp_path / "runs" / "logits").mkdir(parents=True)
    (tmp_path / "runs" / "logits" / "a.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "runs" / "ledger.sqlite").write_bytes(b"paid")
    return Workspace(tmp_path / "runs")


def stage(run: Path, name: str, key: str, started: str, **outputs: Any) -> dict[str, Any]:
    """Finish a stage; what the index says of it."""
    folder = run / rundir.folder_name(name, key)
    rundir.begin(folder)
    for output, content in outputs.items():
        files.write_json(folder / f"{output}.json", content)
    about = {"key": key, "started": started, "seconds": 61.0, "summary": f"{name} went well", "missed": None}
    rundir.finish(folder, about)
    return {"key": key, "folder": folder.name, "seconds": 61.0}


def made(
    place: Workspace, name: str, arms: dict[str, dict[str, Any]] | None = None, seeds: tuple[int, ...] = (0,),
    rates: dict[tuple[str, int], float] | None = None, salt: str = "", stages: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """A run with these arms; `salt` makes the keys of its trainings its own."""
    arms, run = arms or {"main": SECTIONS}, place.run_folder(name)
    run.mkdir()
    files.write_json(run / "experiment.json", {"name": name, "seeds": list(seeds), "arms": arms})
    index: dict[str, Any] = {}
    for arm in arms:
        for seed in seeds:
            value = (rates or {}).get((arm, seed), 0.8)
            models = [
                {"name": "base", "rate": {**RATE, "value": 0.1}},
                {"name": "student", "rate": RATE | {"value": value}},
            ]
            results = {"tasks": [{"name": "problems", "models": models}]}
            noted = index.setdefault(arm, {}).setdefault(str(seed), {})
            for one in stages or ("problems", "train", "evaluate"):
                key = "0" * 64 if one == "problems" else key_of(salt, arm, seed, one)
                noted[one] = stage(
                    run, one, key, WHEN[one], **{"evaluate": {"results": results}}.get(one, {one: "x" * 50})
                )
    files.write_json(run / "run.json", {"name": name, "experiment": "x.yaml", "arms": index})
    return run


def rewritten(run: Path, results: Any) -> None:
    """Give an evaluation other results, as if it had written them."""
    folder = next(run.glob("evaluate-*"))
    files.write_json(folder / "results.json", results)
    data = files.read_json(folder / "manifest.json")
    data["files"]["results.json"]["bytes"] = (folder / "results.json").stat().st_size
    files.write_json(folder / "manifest.json", data)


def key_of(salt: str, arm: str, seed: int, number: str) -> str:
    from distill.core.config import digest

    return digest([salt, arm, seed, number])


def invoke(place: Workspace, *words: str) -> Result:
    """The command, as `main` would end it."""
    done = CliRunner().invoke(app, ["runs", *words, "--workspace", str(place.root)])
    if done.exception is not None and not isinstance(done.exception, (DistillError, SystemExit)):
        raise done.exception
    return done


def listed(place: Workspace) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in json.loads(invoke(place, "list", "--json").stdout)}


# ---- list and show


def test_a_run_is_listed_with_what_it_did(place: Workspace) -> None:
    run = made(place, "one")
    made(place, "five", seeds=(0, 1), arms={"sft": SECTIONS, "kl": SECTIONS}, rates={("kl", 0): 0.9, ("kl", 1): 0.7})

    one, five = listed(place)["one"], listed(place)["five"]

    assert set(listed(place)) == {"one", "five"}, "neither ledger nor log-probabilities are a run"
    assert (one["state"], one["stages_done"], one["stages_asked"]) == ("complete", 3, 3)
    assert (one["when"], one["arms"], one["seeds"]) == ("2026-01-02T05:00:00+00:00", ["main"], ["0"])
    assert one["bytes"] == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert [(r["model"], r["value"], r["task"]) for r in one["results"]] == [
        ("base", 0.1, "problems"),
        ("student", 0.8, "problems"),
    ]
    assert (five["stages_done"], len(five["results"])) == (12, 8)
    text = invoke(place, "list").stdout
    assert re.search(r"one +2026-01-02 05:00 +1 x 1 +3 of 3 +complete +student 80.0% \[50.0, 95.0\]", text)
    assert re.search(r"five .* 2 x 2 +12 of 12 +complete +student 80.0% \(sft\) to 80.0% \(", text)


def test_of_several_arms_the_lowest_and_the_highest_are_shown(place: Workspace) -> None:
    arms = {"sft": SECTIONS, "kl": SECTIONS, "jsd": SECTIONS}
    made(place, "arms", arms=arms, rates={("sft", 0): 0.5, ("kl", 0): 0.75, ("jsd", 0): 0.6})
    made(place, "seeds", seeds=(0, 1), rates={("main", 0): 0.5, ("main", 1): 0.75}, salt="s")

    text = invoke(place, "list").stdout

    assert "student 50.0% (sft) to 75.0% (kl)" in text
    assert "student 62.5%, mean of 2 seeds" in text


def test_what_cannot_be_read_is_listed_with_the_reason_and_never_a_traceback(place: Workspace) -> None:
    made(place, "whole")
    made(place, "half", stages=("problems",))
    (place.run_folder("begun")).mkdir()
    shutil.copy(place.run_folder("whole") / "experiment.json", place.run_folder("begun"))
    made(place, "cut", salt="c")
    (next(place.run_folder("cut").glob("train-*")) / "train.json").unlink()
    for name, file, content in [
        ("torn", "run.json", '{"arms": {'), ("list", "run.json", "[]"), ("odd", "run.json", '{"arms": [1]}'),
        ("bare", "run.json", "{}"), ("old", "experiment.json", '{"arms": {"main": 3}, "seeds": [0]}'),
        ("binary", "experiment.json", "\x00\xff"),
    ]:  # fmt: skip
        made(place, name, salt=name)
        (place.run_folder(name) / file).write_text(content, encoding="latin-1")
    made(place, "manifest", salt="m")
    (next(place.run_folder("manifest").glob("train-*")) / "manifest.json").write_text("{")
    made(place, "results", salt="r")
    rewritten(place.run_folder("results"), {"tasks": [{"models": [7]}]})
    (place.root / "photos").mkdir()
    (place.root / "photos" / "cat.jpg").write_bytes(b"12345")
    (place.root / "nothing").mkdir()
    (place.root / "dangling").symlink_to(place.root / "nowhere")

    found = listed(place)

    states = {name: run["state"] for name, run in found.items()}
    assert states == {
        "whole": "complete", "half": "unfinished", "begun": "unfinished", "cut": "unfinished", "photos": "not a run",
        "nothing": "not a run",
        **dict.fromkeys(["torn", "list", "odd", "bare", "old", "binary", "manifest", "results"], "broken"),
    }  # fmt: skip
    notes = {name: run["note"] for name, run in found.items()}
    assert notes["torn"].startswith("run.json is not JSON (")
    assert notes["list"] == "run.json holds a list, not an object"
    assert notes["bare"] == "it lacks 'arms'"
    assert re.match(r"train-[0-9a-f]{12}/manifest.json is not JSON", notes["manifest"])
    assert notes["photos"] == "no run.json and no experiment.json"
    assert found["photos"]["bytes"] == 5
    assert (found["half"]["stages_done"], found["half"]["stages_asked"]) == (1, 3)
    shown = {s["stage"]: s["state"] for s in json.loads(invoke(place, "show", "cut", "--json").stdout)["stages"]}
    assert shown == {"problems": "done", "train": "unfinished", "evaluate": "done"}
    text = invoke(place, "list").stdout
    assert all(name in text for name in states)
    for name in states:
        assert invoke(place, "show", name).exit_code == 0


def test_a_run_is_shown_with_stages_settings_results_and_what_else_is_there(place: Workspace) -> None:
    run = made(place, "one", arms={"sft": SECTIONS, "kl": {**SECTIONS, "train": {"epochs": 9}}})
    (run / "notes.txt").write_text("mine")
    (run / "train-0123456789ab").mkdir()
    (run / "report.html").write_text("r")
    for ours in (".view", "publish"):  # an index to read traces by, cards
        (run / ours).mkdir()

    text, data = invoke(place, "show", "one").stdout, json.loads(invoke(place, "show", "one", "--json").stdout)

    assert text.startswith("one: complete, ") and str(run) in text
    assert re.search(r"problems +all +done +2026-01-02 03:04 +1 min 01 s +problems went well", text)
    assert re.search(r"train +kl +done", text)
    assert re.search(r"train\.epochs +\{\"sft\": 3, \"kl\": 9\}", text)
    assert re.search(r"problems\.source\.seed +0 *\n", text)
    assert "stages of earlier settings, which no arm uses: train-0123456789ab" in text
    assert "not of distill: notes.txt" in text
    assert data["settings"]["sft"]["train.loss.weight"] == 0.5
    assert (data["unused"], data["unknown"]) == (["train-0123456789ab"], ["notes.txt"])


def test_an_evaluation_of_before_there_were_tasks_is_read(place: Workspace) -> None:
    run = made(place, "one")
    rewritten(run, {"models": [{"name": "student", "rate": RATE}]})

    (result,) = listed(place)["one"]["results"]

    assert (result["task"], result["model"], result["value"]) == ("problems", "student", 0.8)


def test_a_run_that_may_not_be_read_is_listed_with_the_reason(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(place, "one")
    monkeypatch.setattr(
        files, "read_json", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied", str(path)))
    )
    one = runs.look(place.run_folder("one"), STAGES)
    assert (one.state, one.note) == ("broken", "[Errno 13] denied: 'experiment.json'")


def test_a_pulled_run_is_complete_without_what_was_not_published(place: Workspace) -> None:
    run = made(place, "one")
    for name, output in (("train", "train.json"), ("evaluate", "results.json")):
        folder = next(run.glob(f"{name}-*"))
        (folder / output).unlink()
        files.write_json(folder / rundir.ABSENT, [output])

    one = listed(place)["one"]

    assert (one["state"], one["stages_done"], one["results"]) == ("complete", 3, [])


def test_a_run_that_is_being_written_says_so(place: Workspace) -> None:
    run = made(place, "one", stages=("problems",))
    with rundir.locked(run, "train", "f" * 64):
        one = listed(place)["one"]
        stages = json.loads(invoke(place, "show", "one", "--json").stdout)["stages"]
    assert one["state"] == "being written"
    assert one["note"] == f"train-ffffffffffff by process {os.getpid()}"
    assert {s["stage"]: s["state"] for s in stages}["train"] == "being written"
    assert listed(place)["one"]["state"] == "unfinished"
    for left in ("99999999", "not a number", str(os.getpid())):
        note = run / ".locks" / "train-ffffffffffff.pid"
        note.write_text(left)
        os.utime(note, (1, 1))  # noted long before this process was there: the number is another's now
        assert listed(place)["one"]["state"] == "unfinished", left


def test_the_size_counts_every_file_once_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "big").write_bytes(b"x" * 1000)
    (tmp_path / "a" / "file").write_bytes(b"x" * 10)
    os.link(tmp_path / "a" / "file", tmp_path / "a" / "b" / "again")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "big")
    assert runs.size_of(tmp_path / "a") == 10


# ---- names


@pytest.mark.parametrize("name", ["", ".", "..", "on", "none/such", "logits/a.safetensors", "../runs"])
def test_a_name_that_means_no_run_is_one_line(place: Workspace, name: str) -> None:
    made(place, "one")
    with pytest.raises(ConfigError, match="no run `"):
        runs.named(place, name)


def test_a_run_is_named_by_its_name_or_its_path(place: Workspace, tmp_path: Path) -> None:
    run = made(place, "one")
    elsewhere = made(Workspace(tmp_path), "two")
    assert runs.named(place, "one") == runs.named(place, "one/") == run
    assert runs.named(place, str(run)) == run
    assert runs.named(place, str(elsewhere)) == elsewhere
    with pytest.raises(ConfigError, match="Did you mean `one`"):
        runs.named(place, "ome")


def test_a_workspace_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = invoke(Workspace(tmp_path / "none"), "list")
    assert "no such workspace" in str(done.exception)
    assert not (tmp_path / "none").exists()


# ---- diff


def test_runs_differ_in_settings_by_their_flat_names_with_results_beside(place: Workspace) -> None:
    made(place, "one")
    other = {**SECTIONS, "train": {"epochs": 4, "loss": None}, "verify": {"verifier": "math"}}
    made(place, "two", arms={"other": other}, rates={("other", 0): 0.6}, salt="2")

    data = json.loads(invoke(place, "diff", "one", "two", "--json").stdout)

    assert {row["setting"]: row["values"] for row in data["settings"]} == {
        "train.epochs": [3, 4],
        "train.loss": [None, None],
        "train.loss.name": ["forward_kl", None],
        "train.loss.weight": [0.5, None],
        "verify.verifier": [None, "math"],
    }
    assert {row["setting"]: row["there"] for row in data["settings"]}["train.loss"] == [False, True]
    assert data["same_stages"] == ["problems"]
    rundir.begin(next(place.run_folder("one").glob("problems-*")))  # half written now: the key alone is no content
    assert json.loads(invoke(place, "diff", "one", "two", "--json").stdout)["same_stages"] == []
    stage(place.run_folder("one"), "problems", "0" * 64, WHEN["problems"], problems="x" * 50)
    assert [result["value"] for result in data["results"][1]] == [0.1, 0.6]
    text = invoke(place, "diff", "one", "two").stdout
    assert re.search(r"train\.epochs +3 +4", text)
    assert re.search(r"train\.loss +- +null", text)
    assert re.search(r"student +80.0% \[50.0, 95.0\] +60.0% \[50.0, 95.0\]", text)
    assert (
        "5 settings differ; the same under the same key: problems. Whether results differ: distill compare one two"
        in text
    )


def test_arms_are_compared_as_they_differ_or_one_by_one(place: Workspace) -> None:
    kl = {**SECTIONS, "train": {"epochs": 9, "loss": {"name": "forward_kl", "weight": 0.5}}}
    made(place, "arms", arms={"sft": SECTIONS, "kl": kl}, seeds=(0, 1))
    made(place, "one", salt="1")

    both = json.loads(invoke(place, "diff", "arms", "one", "--json").stdout)["settings"]
    assert [(row["setting"], row["values"]) for row in both] == [("train.epochs", [{"sft": 3, "kl": 9}, 3])]
    one = json.loads(invoke(place, "diff", "arms:sft", "one", "--json").stdout)
    assert (one["settings"], one["runs"]) == ([], ["arms:sft", "one"])
    within = json.loads(invoke(place, "diff", "arms:sft", "arms:kl", "--json").stdout)
    assert [row["values"] for row in within["settings"]] == [[3, 9]]
    assert "80.0% (2 seeds)" in invoke(place, "diff", "arms:sft", "arms:kl").stdout
    assert "no setting differs" in invoke(place, "diff", "arms:sft", "one").stdout
    with pytest.raises(ConfigError, match="no arm `jsd`; it has sft, kl"):
        runs.narrowed(runs.look(place.run_folder("arms"), STAGES), "jsd")
    assert "the same run" in str(invoke(place, "diff", "arms", "arms").exception)


def test_settings_are_flat() -> None:
    nested = {"a": {"b": 1, "c": {}}, "d": [1, 2], "e": [{"f": None}, {"f": 2}], "g": []}
    assert dict(runs.flat(nested)) == {"a.b": 1, "a.c": {}, "d": [1, 2], "e[0].f": None, "e[1].f": 2, "g": []}


# ---- delete


def everything(place: Workspace) -> dict[str, bytes]:
    return {str(path.relative_to(place.root)): path.read_bytes() for path in place.root.rglob("*") if path.is_file()}


def test_without_yes_nothing_goes_and_all_that_would_is_said(place: Workspace) -> None:
    run = made(place, "one")
    made(place, "two", salt="2")
    (run / "notes.txt").write_text("mine")
    before = everything(place)

    text = invoke(place, "delete", "one").stdout

    assert everything(place) == before
    assert (
        f"one: complete, {runs.size_of(run)} bytes in {run}" in text
        or f"one: complete, {runs.size_of(run) / 1000:.3g} kB" in text
    )
    assert "distill did not put there: notes.txt" in text
    assert "two has its own files of the same stages: problems" in text
    assert "would be free; the ledger" in text and "Add --yes to delete" in text
    data = json.loads(invoke(place, "delete", "one", "--json").stdout)
    assert (data["deleted"], data["bytes"], data["runs"][0]["refused"]) == (False, runs.size_of(run), None)
    assert data["runs"][0]["others"] == [{"name": "two", "reads": [], "same_stages": ["problems"]}]


def test_with_yes_the_run_goes_and_nothing_else(place: Workspace) -> None:
    made(place, "one")
    made(place, "two", salt="2")
    rest = {name: content for name, content in everything(place).items() if not name.startswith("one/")}

    done = invoke(place, "delete", "one", "--yes")

    assert done.exit_code == 0
    assert "deleted, " in done.stdout
    assert everything(place) == rest
    assert sorted(path.name for path in place.root.iterdir()) == ["ledger.sqlite", "logits", "two"]


def test_two_go_together_and_a_run_named_twice_once(place: Workspace) -> None:
    made(place, "one")
    two = made(place, "two", salt="2")
    done = invoke(place, "delete", "one", "two", str(two), "--yes", "--json")
    assert [entry["run"] for entry in json.loads(done.stdout)["runs"]] == ["one", "two"]
    assert sorted(path.name for path in place.root.iterdir()) == ["ledger.sqlite", "logits"]


def test_what_is_no_run_of_this_workspace_stays(place: Workspace, tmp_path: Path) -> None:
    elsewhere = made(Workspace(tmp_path), "two")
    (place.root / "photos").mkdir()
    made(place, "one")
    (place.root / "link").symlink_to(place.run_folder("one"))
    before = everything(place)
    for name, why in [
        ("photos", "is not a run"), ("logits", "is not a run"), (str(elsewhere), "is not in the workspace"),
        ("link", "is a link"),
    ]:  # fmt: skip
        done = invoke(place, "delete", name, "--yes")
        assert done.exit_code == 1
        assert str(done.exception).startswith("nothing was deleted: ") and why in str(done.exception)
        assert "refused: " in invoke(place, "delete", name).stdout
    assert everything(place) == before
    assert elsewhere.exists()


def test_one_that_is_refused_keeps_the_others_that_were_named(place: Workspace) -> None:
    made(place, "one")
    (place.root / "photos").mkdir()
    assert invoke(place, "delete", "one", "photos", "--yes").exit_code == 1
    assert place.run_folder("one").exists()


def test_a_broken_run_may_go(place: Workspace) -> None:
    (made(place, "one") / "run.json").write_text("{")
    assert "one cannot be read" not in invoke(place, "delete", "one").stdout
    made(place, "two", salt="2")
    assert "one cannot be read" not in invoke(place, "delete", "one").stdout
    assert "one (run.json is not JSON" in invoke(place, "delete", "two").stdout
    assert invoke(place, "delete", "one", "--yes").exit_code == 0
    assert not place.run_folder("one").exists()


@pytest.mark.parametrize("how", ["absolute", "in a list"])
def test_a_run_that_another_reads_stays_unless_it_is_forced(place: Workspace, how: str) -> None:
    one = made(place, "one")
    student = str(next(one.glob("train-*")) / "student")
    value = {"models": ["base", student]} if how == "in a list" else {"models": [], "other": student}
    made(place, "two", arms={"main": {**SECTIONS, "evaluate": value}}, salt="2")
    name = "evaluate.models" if how == "in a list" else "evaluate.other"

    assert f"two reads it: {name}" in invoke(place, "delete", "one").stdout
    refused = invoke(place, "delete", "one", "--yes")
    assert refused.exit_code == 1 and f"run two reads it (`{name}`)" in str(refused.exception)
    assert one.exists()
    assert invoke(place, "delete", "one", "two", "--yes").exit_code == 0, "its reader goes with it"


def test_relative_paths_mean_the_workspaces_surroundings_too(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made(place, "one")
    made(place, "two", arms={"main": {"student": {"model": "runs/one/train-x/student"}}}, salt="2")
    made(place, "three", arms={"main": {"student": {"model": "Qwen/Qwen3-8B", "text": "a/b\nc"}}}, salt="3")
    monkeypatch.chdir("/")
    one, two, three = (runs.look(place.run_folder(name), STAGES) for name in ("one", "two", "three"))
    assert [relation.reads for relation in runs.relations(one, [two, three, one])] == [("student.model",), ()]
    assert invoke(place, "delete", "one", "--yes", "--force").exit_code == 0
    assert not place.run_folder("one").exists()


HOLDER = """
import sys, time
from pathlib import Path
from distill.core import rundir
with rundir.locked(Path(sys.argv[1]), "train", "f" * 64):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_that_another_process_writes_stays(place: Workspace) -> None:
    run = made(place, "one")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            refused = invoke(place, "delete", "one", "--yes")
            assert "is being written (train-ffffffffffff by process" in str(refused.exception)
            (run / ".locks" / "train-ffffffffffff.pid").unlink()  # another host's, or another container's
            refused = invoke(place, "delete", "one", "--yes")
            assert isinstance(refused.exception, Busy) and "train-ffffffffffff is being written" in str(
                refused.exception
            )
            assert len(list(run.iterdir())) > 4
        finally:
            process.kill()
    assert invoke(place, "delete", "one", "--yes").exit_code == 0, "its lock went with the process"
    assert not run.exists()


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_a_kill_leaves_the_whole_run_or_what_the_next_call_removes(
    place: Workspace, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(place, "one")
    made(place, "two", salt="2")
    whole = everything(place)

    def dying(folder: Path) -> None:
        for path in [path for path in sorted(folder.rglob("*")) if path.is_file()][:removed]:
            path.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            runs.delete(place, runs.look(run, STAGES))
    assert everything(place).items() >= whole.items()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dying)
        with pytest.raises(Killed):
            runs.delete(place, runs.look(run, STAGES))
    assert not run.exists()
    assert [path.name for path in place.root.iterdir() if path.name.startswith(".")] == [f".one.partial-{os.getpid()}"]

    done = invoke(place, "list", "--json")

    assert [entry["name"] for entry in json.loads(done.stdout)] == ["two"]
    assert "removed what a deletion of one had left" in done.stderr
    assert everything(place) == {name: content for name, content in whole.items() if not name.startswith("one/")}


def test_what_another_process_is_deleting_is_left_to_it(place: Workspace) -> None:
    ours = place.root / f".one.partial-{os.getppid()}"
    ours.mkdir()
    assert runs.clear(place) == []
    assert ours.exists()


def test_what_the_pipeline_leaves_is_read(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text("source: {value: 3}\ndouble: {}\nnoisy: {}\nseeds: [0, 1]\n")
    names = [stage.name for stage in stub_stages.STAGES]

    def after(until: str | None, *overrides: str) -> runs.Run:
        loaded = experiment.load(path, stub_stages.SECTIONS, overrides)
        list(pipeline.Runner(loaded, Workspace(tmp_path / "runs"), stub_stages.STAGES).run(until=until))
        return runs.look(tmp_path / "runs" / "toy", names)

    begun, whole = after("source"), after(None)
    assert (begun.state, begun.done, len(begun.stages)) == ("unfinished", 1, 6)
    assert (whole.state, whole.done, whole.unused, whole.unknown) == ("complete", 6, (), ())
    again = after(None, "source.value=4")
    assert (again.state, again.done) == ("complete", 6)
    assert sorted(name.partition("-")[0] for name in again.unused) == ["double", "noisy", "noisy", "source"]
    assert again.settings["main"]["source.value"] == 4
