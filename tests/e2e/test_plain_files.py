"""Commands that take a plain model folder, a file or a run instead of an experiment."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.e2e import small

QUESTION = "What is 17 times 23?\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the embedded student was exported to out/ as Q4_K_M, what was printed beside it."""
    folder = tmp_path_factory.mktemp("exported")
    done = small.run(folder, "export", "embedded-student", "--format", "gguf", "--type", "q4_k_m", "--out", "out")
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def test_a_model_folder_becomes_a_file_that_is_proved(exported: Path) -> None:
    (file,) = (exported / "out").rglob("*.gguf")
    assert file.read_bytes()[:4] == b"GGUF"
    (entry,) = json.loads((exported / "out" / "proof.json").read_text())["files"]
    assert entry["missed"] == []
    assert {"types", "opens", "chat", "twin"} <= {check["name"] for check in entry["checks"]}
    printed = (exported / "printed").read_text()
    assert "bits a weight" in printed and "Q4_K" in printed
    assert f"distill chat {file.relative_to(exported / 'out')}" in " ".join(printed.split())


def test_a_second_export_into_the_same_folder_replaces_the_first_and_says_it_as_json(exported: Path) -> None:
    model = exported / "model"
    shutil.copytree(Path(small.__file__).parents[2] / "students" / "embedded" / "model", model)
    done = small.run(exported, "export", "model", "--format", "gguf", "--type", "q8_0", "--out", "again", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["rows"][0]["file"] == "gguf-q8_0/model-q8_0.gguf"
    assert (exported / "again" / said["rows"][0]["file"]).exists()


WRONG = {
    "unknown format": (["embedded-student", "--format", "ggml", "--out", "out"], "no export format `ggml`"),
    "unknown type": (
        ["embedded-student", "--format", "gguf", "--type", "q9", "--out", "out"], "--type: .*'q4_k_m', .*; got 'q9'",
    ),
    "type of another format": (
        ["embedded-student", "--format", "safetensors", "--type", "q8_0", "--out", "out"], "--type: .*got 'q8_0'",
    ),
    "option of another format": (
        ["embedded-student", "--format", "gguf", "--adapter-alone", "--out", "out"], "takes no --adapter-alone",
    ),
    "missing importance matrix": (
        ["embedded-student", "--format", "gguf", "--imatrix", "nowhere.dat", "--out", "out"], "no such file",
    ),
    "missing folder": (["./nowhere", "--format", "gguf", "--out", "out"], r"`\./nowhere`: no such folder"),
    "unknown name": (["nowhere", "--format", "gguf", "--out", "out"], "Embedded models: embedded-teacher"),
    "folder without a model": ([".", "--format", "gguf", "--out", "out"], "no model.safetensors there"),
    "a file": (["here.txt", "--format", "gguf", "--out", "out"], "takes a model folder, not a file"),
    "missing adapter": (
        ["embedded-student", "--format", "gguf", "--adapter", "./nowhere", "--out", "out"], "no such folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_export_is_one_line_and_writes_nothing(case: str, tmp_path: Path) -> None:
    words, text = WRONG[case]
    (tmp_path / "here.txt").write_text("no model")
    done = small.run(tmp_path, "export", *words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(f"distill: .*{text}.*\n", done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["here.txt"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should go")
    done = small.run(tmp_path, "export", "embedded-student", "--format", "gguf", "--out", "taken/out")
    assert done.returncode == 1
    assert re.fullmatch("distill: taken/out: Not a directory; .*\n", done.stderr), done.stderr


def test_options_that_do_not_go_together_say_so(tmp_path: Path) -> None:
    for words, text in (
        (["export", "embedded-student", "--format", "gguf"], "needs --format and --out"),
        (["export", "small.yaml", "--out", "out"], "--out goes with a model folder"),
        (["export", "embedded-student", "--format", "gguf", "--out", "out", "--set", "a=1"], "--set goes with"),
    ):
        done = small.run(tmp_path, *words)
        assert done.returncode == 2
        assert text in done.stderr


def chatted(folder: Path, target: str) -> str:
    """What a chat said to one question out of a pipe."""
    done = small.run(folder, "chat", target, "--temperature", "0", "--max-tokens", "120", stdin=QUESTION)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_chat_with_a_model_folder_shows_thinking_and_answer(exported: Path) -> None:
    out = chatted(exported, "embedded-teacher")
    assert re.fullmatch(r"<think>\n.+\n</think>\n\nAnswer: \\boxed\{.+\}\n", out, re.DOTALL), out


def test_chat_with_a_file_says_what_its_model_says(exported: Path) -> None:
    (file,) = (exported / "out").rglob("*.gguf")
    out = chatted(exported, str(file.relative_to(exported)))
    assert re.fullmatch(r"<think>\n.+\n</think>\n\nAnswer: \\boxed\{.+\}\n", out, re.DOTALL), out


def test_chat_with_a_run_talks_to_its_student(finished: Path) -> None:
    assert chatted(finished, "runs/small").startswith("<think>")


def test_chat_with_nothing_is_one_line(tmp_path: Path) -> None:
    done = small.run(tmp_path, "chat", "nowhere", stdin=QUESTION)
    assert done.returncode == 2
    assert re.fullmatch("distill: .*no such folder or file.*\n", done.stderr), done.stderr


def test_init_writes_an_experiment_that_loads(tmp_path: Path) -> None:
    done = small.run(tmp_path, "init")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "written experiment.yaml\nwritten experiment.schema.json\n"

    # The whole file is checked before anything runs; a stage that is not done then stops it.
    loaded = small.run(tmp_path, "verify", "experiment.yaml")
    assert loaded.returncode == 2
    assert "is not done for this experiment" in loaded.stderr

    again = small.run(tmp_path, "init")
    assert again.returncode == 2
    assert "overwrites nothing" in again.stderr


def test_report_writes_the_page_anew_and_prints_the_table(finished: Path) -> None:
    page = finished / "runs" / "small" / "report.html"
    before = page.read_text()
    page.unlink()
    done = small.run(finished, "report", "runs/small")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (finished / "first.out").read_text()
    assert page.read_text() == before

    numbers = small.run(finished, "report", "runs/small", "--json")
    assert json.loads(numbers.stdout) == json.loads((finished / "runs" / "small" / "report.json").read_text())


def test_report_of_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = small.run(tmp_path, "report", ".")
    assert done.returncode == 2
    assert re.fullmatch(r"distill: \.: not a run folder .*\n", done.stderr), done.stderr


def test_version(tmp_path: Path) -> None:
    done = small.run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"distill, version {version('reasoning-distill')}\n")
