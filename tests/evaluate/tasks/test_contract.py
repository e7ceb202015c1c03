"""What every task owes; a new file in `distill/evaluate/tasks/` is tested the moment it exists.

class Config(TaskSettings)                          # its settings, with its usual way of drawing
def build(config) -> Iterable[Problem]              # test problems: verifier, source, licence, gold or tests
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.core import plugins
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.records import FinishReason, Problem, Sample, Verdict, problem_id
from distill.evaluate import task
from distill.stages import verify
from tests.evaluate.tasks.made import MADE, OWN, choose, choose_made

NAMES = plugins.names("distill.evaluate.tasks")
BUILT = [name for name in NAMES if name != "problems"]
BENCHMARKS = [name for name in NAMES if name not in OWN]

GOLDEN = Path(__file__).parents[2] / "golden" / "tasks.json"
SAMPLES = {"aime2024": 64, "aime2025": 64, "math500": 4, "gpqa": 8, "livecodebench": 16}


def said(problem: Problem, text: str, finish: FinishReason = "stop") -> Sample:
    return Sample(
        key=problem_id((*problem.messages, *problem.messages))[:8] + text[-8:], problem_id=problem.id, index=0,
        model_id="m", model_name="m", engine="none", max_tokens=99, finish_reason=finish, reasoning=None, answer=text,
        closed=True,
    )  # fmt: skip


def grade(problems: list[Problem], texts: list[str], finish: FinishReason = "stop") -> list[Verdict]:
    """Verdicts by the verifiers that the problems name; the experiment's would raise."""
    default = Choice("distill.verifiers", "verifier", "exact", plugins.load("distill.verifiers", "exact").Config())
    samples = [said(problem, text, finish) for problem, text in zip(problems, texts, strict=True)]
    return verify.grade({problem.id: problem for problem in problems}, samples, default, quiet=True)


def answers(name: str, problems: list[Problem]) -> list[list[str]]:
    """For every problem an answer that is right and one that is wrong."""
    if name in OWN:
        golds = [problem.gold or "" for problem in problems]
        return [[rf"\boxed{{{gold}{more}}}" for gold in golds] for more in ("", "1")]
    asked = [problem.messages[-1].content for problem in problems]
    made = [next(made for made in MADE[name] if made.question in question) for question in asked]
    sides = [[one.right for one in made], [one.wrong for one in made]]
    if name == "gpqa":  # where the options stand is the task's own doing
        return [[f"Answer: ${_letter(*one)}" for one in zip(asked, side, strict=True)] for side in sides]
    return sides


def _letter(question: str, option: str) -> str:
    """The letter that an option stands under."""
    (line,) = [line for line in question.split("\n") if line.endswith(f") {option}")]
    return line[0]


def test_every_task_that_is_promised_is_there():
    assert set(NAMES) == {
        "problems", "gsm8k", "math500", "aime2024", "aime2025", "gpqa", "mmlu_pro", "arc", "humaneval", "mbpp",
        "livecodebench", "ifeval", "reasoning_gym", "steps",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_has_help_and_settings_with_the_usual_draw(name: str):
    module = plugins.load("distill.evaluate.tasks", name)
    config = module.Config()

    assert 20 < len(plugins.help_line("distill.evaluate.tasks", name)) < 120
    assert isinstance(config, task.TaskSettings)
    usual = config.draw()
    assert (usual.sample_temperature, usual.top_p) == (0.6, 0.95)
    assert usual.max_tokens == (160 if name == "steps" else 32768)
    assert usual.samples == SAMPLES.get(name, 1)
    assert all(field.description for field in module.Config.model_fields.values() if field.default is None)


def test_settings_are_read_without_torch_or_data_sets():
    code = f"""
import sys
from distill.core import plugins
for name in {NAMES!r}:
    plugins.load("distill.evaluate.tasks", name).Config()
print([m for m in ("torch", "transformers", "datasets", "huggingface_hub", "reasoning_gym") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", BUILT)
def test_gives_test_problems_with_verifier_source_and_licence(name: str, tmp_path: Path):
    choice = choose_made(name, tmp_path)
    problems = task.load(choice)

    assert len(problems) == len(MADE.get(name, [])) or name in OWN
    assert len({problem.id for problem in problems}) == len(problems) > 0
    for problem in problems:
        assert problem.id == problem_id(problem.messages)
        assert problem.split == "test"
        assert problem.source == name
        assert problem.licence
        assert problem.domain
        assert problem.verifier == task.settings(choice).VERIFIER
        assert problem.verifier in plugins.names("distill.verifiers")
        if told := task.settings(choice).told:
            assert told[:40] not in problem.messages[-1].content, "the instruction is no part of the problem"


@pytest.mark.parametrize("name", BUILT)
def test_its_own_verifier_takes_the_right_answer_and_refuses_a_wrong_or_cut_one(name: str, tmp_path: Path):
    choice = choose_made(name, tmp_path)
    if fault := task.fault(choice):
        pytest.skip(fault)
    problems = task.load(choice)
    right, wrong = answers(name, problems)

    assert {verdict.value for verdict in grade(problems, right)} == {"correct"}
    assert {verdict.value for verdict in grade(problems, wrong)} == {"wrong"}
    assert {verdict.value for verdict in grade(problems, right, "length")} == {"unparseable"}


@pytest.mark.parametrize("name", [name for name in BUILT if name != "reasoning_gym"])  # whose package makes them
def test_problems_are_those_of_before(name: str, tmp_path: Path, request: pytest.FixtureRequest):
    """An id that moves buys every answer again. Recorded anew by --update-golden; the commit says why."""
    problems = task.load(choose_made(name, tmp_path))
    found = {"problems": task.fingerprint(problems), "first": problems[0].messages[-1].content}

    recorded = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if request.config.getoption("--update-golden"):
        recorded[name] = found
        GOLDEN.write_text(json.dumps(recorded, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    assert recorded[name] == found


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_order_of_the_rows_does_not_count(name: str, tmp_path: Path):
    rows = [made.row for made in MADE[name]]

    turned = task.load(choose_made(name, tmp_path / "turned", rows[::-1]))

    assert turned == task.load(choose_made(name, tmp_path, rows))


@pytest.mark.parametrize("name", BUILT)
def test_fewer_rows_are_the_first_by_hash(name: str, tmp_path: Path):
    everything = task.load(choose_made(name, tmp_path))

    assert task.load(choose_made(name, tmp_path, rows=4)) == everything[:4]
    assert task.load(choose_made(name, tmp_path, rows=400)) == everything


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_counts_by_content_not_by_place(name: str, tmp_path: Path):
    here, there = choose_made(name, tmp_path / "here"), choose_made(name, tmp_path / "there")
    other = choose_made(name, tmp_path / "other", [made.row for made in MADE[name][:5]])

    assert here.keyed() == there.keyed() == other.keyed()
    assert task.settings(here).externals() == task.settings(there).externals() != task.settings(other).externals()
    assert task.settings(choose(name)).externals() == {}, "an id counts by itself"
    assert choose(name).keyed()["path"] == choose(name).config.dump()["path"]
    assert choose(name, revision="e53f048").keyed() != choose(name).keyed()


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("rows", [[{"other": "columns"}], []], ids=["another layout", "no rows"])
def test_another_layout_is_one_clear_line(name: str, rows: list[dict[str, Any]], tmp_path: Path):
    with pytest.raises(DistillError, match=rf"^evaluate: task `{name}`") as caught:
        task.load(choose_made(name, tmp_path, rows))

    assert "\n" not in str(caught.value)
    assert not rows or "rows.jsonl:1: " in str(caught.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_null_in_a_row_is_one_clear_line(name: str, tmp_path: Path):
    """Every column that a task reads, made null in the third row in turn: refused with file and line, or not needed."""
    rows = [made.row for made in MADE[name]]
    said: dict[str, str] = {}
    for column in rows[2]:
        broken = [*rows[:2], {**rows[2], column: None}, *rows[3:]]
        try:
            problems = task.load(choose_made(name, tmp_path / column.replace("/", "-"), broken))
        except DistillError as error:
            said[column] = str(error)
        else:
            assert len(problems) == len(rows), f"null `{column}`: a row is skipped in silence"

    assert len(said) >= 2, f"question and gold at least; {set(said)} of {set(rows[2])}"
    for line in said.values():
        assert line.startswith(f"evaluate: task `{name}`: ")
        assert "rows.jsonl:3: " in line
        assert "\n" not in line


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_file_is_said_before_anything_runs(name: str, tmp_path: Path):
    choice = choose(name, path=str(tmp_path / "none.jsonl"))

    assert f"task `{name}`: {tmp_path / 'none.jsonl'}: no such file or folder" in (task.fault(choice) or "")
    with pytest.raises(DistillError, match=rf"^evaluate: task `{name}`: .*none.jsonl: no such file"):
        task.load(choice)
