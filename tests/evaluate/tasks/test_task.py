"""What tasks share: how answers are drawn, how a question is asked, what is loaded and what is said of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import tabular
from distill.core.config import Settings
from distill.core.errors import ConfigError, DistillError
from distill.core.models import transport_faults
from distill.core.records import Message, Problem, problem_id
from distill.evaluate import task
from distill.evaluate.task import Draw
from tests.evaluate.tasks.made import MADE, choose, choose_made, write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(cache))


# ---- draw and instruction


def test_a_task_s_own_setting_goes_before_that_of_all_tasks_and_this_before_the_usual_one():
    config = task.settings(choose("math500", samples=2, sample_temperature=0.0))

    assert config.draw() == Draw(2, 0.0, 0.95, 32768)
    assert config.draw(samples=9, sample_temperature=0.9, top_p=0.5, max_tokens=None) == Draw(2, 0.0, 0.5, 32768)
    assert task.settings(choose("math500")).draw(max_tokens=160) == Draw(4, 0.6, 0.95, 160)


def test_a_draw_that_is_none_is_refused():
    with pytest.raises(TypeError):
        task.settings(choose("math500")).draw(temperature=0.1)
    with pytest.raises(ValueError, match="greater than 0"):
        choose("math500", samples=0)
    with pytest.raises(ValueError, match=r"no setting `sample`. Did you mean `samples`\?"):
        choose("math500", sample=3)


def test_the_instruction_follows_the_question_or_stands_around_it_and_moves_no_id():
    system = Message("system", "Be brief.")
    bare = Problem(
        problem_id((system, Message("user", "2+2?"))), (system, Message("user", "2+2?")), gold="4", split="test"
    )

    after = task.asked(bare, "Answer in a word.")
    around = task.asked(bare, "Q: {question}\nA:")

    assert after.messages == (system, Message("user", "2+2?\n\nAnswer in a word."))
    assert around.messages == (system, Message("user", "Q: 2+2?\nA:"))
    assert after.id == around.id == bare.id
    assert task.asked(bare, "") is bare


@given(st.text(), st.text())
def test_an_instruction_is_never_read_as_a_pattern(question: str, instruction: str):
    bare = tabular.problem(question, gold=None)

    said = task.asked(bare, instruction).messages[-1].content

    assert question in said
    assert said == question or len(said) >= len(question) + len(instruction.replace(task.QUESTION, ""))


def test_not_given_is_the_task_s_own_instruction_and_an_empty_one_is_none():
    assert task.settings(choose("gsm8k")).told == task.BOXED
    assert task.settings(choose("gsm8k", instruction="")).told == ""
    assert task.settings(choose("gsm8k", instruction="Think.")).told == "Think."
    assert task.settings(choose("steps")).told == ""


def test_a_prompt_or_a_usual_draw_that_changes_in_the_file_changes_the_key(monkeypatch: pytest.MonkeyPatch):
    before, told = choose("gsm8k").keyed(), choose("gsm8k", instruction=task.BOXED).keyed()
    config = type(task.settings(choose("gsm8k")))

    monkeypatch.setattr(config, "INSTRUCTION", "Think.")
    another_prompt = choose("gsm8k").keyed()
    monkeypatch.undo()
    monkeypatch.setattr(config, "USUAL", Draw(samples=2))

    assert before == told
    assert before not in (another_prompt, choose("gsm8k").keyed())


def test_multiple_choice_prompts_hold_the_question_and_say_how_to_answer():
    for name in ("gpqa", "arc"):
        told = task.settings(choose(name)).told
        assert told.count(task.QUESTION) == 1
        assert "'Answer: $LETTER'" in told


# ---- loading


def test_a_question_that_stands_there_twice_counts_once_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [made.row for made in MADE["gsm8k"]]
    again = [*rows, {**rows[0], "answer": "#### 999"}, rows[1]]

    first = task.load(choose_made("gsm8k", tmp_path / "a", again))
    second = task.load(choose_made("gsm8k", tmp_path / "b", again[::-1]))

    assert len(first) == len(rows)
    assert first == second, "which gold stays does not depend on the order"
    assert "task `gsm8k`: 2 questions that stood there before count once" in capsys.readouterr().err


def test_the_fingerprint_is_of_what_grades():
    one, other = tabular.problem("2+2?", gold="4"), tabular.problem("3+3?", gold="6")

    assert task.fingerprint([one, other]) == task.fingerprint([other, one])
    assert task.fingerprint([one]) != task.fingerprint([tabular.problem("2+2?", gold="5")])
    assert task.fingerprint([one]) != task.fingerprint([tabular.problem("2+2?", gold="4", verifier="math")])


def test_the_experiment_s_own_problems_are_not_loaded_here():
    with pytest.raises(DistillError, match="^evaluate: task `problems` has no problem"):
        task.load(choose("problems"))


def test_a_task_of_one_s_own_is_a_module(monkeypatch: pytest.MonkeyPatch):
    class Config(task.TaskSettings):
        """Settings."""

    module: Any = ModuleType("my_tasks.sums")
    module.Config = Config
    module.build = lambda config: [tabular.problem("1+1?", gold="2", split="test", verifier="math")]
    monkeypatch.setitem(sys.modules, "my_tasks", ModuleType("my_tasks"))
    monkeypatch.setitem(sys.modules, "my_tasks.sums", module)

    assert [problem.gold for problem in task.load(choose("my_tasks.sums"))] == ["2"]

    class Other(Settings):
        """No task's."""

    module.Config = Other
    with pytest.raises(DistillError, match="its Config is no TaskSettings"):
        task.load(choose("my_tasks.sums"))


def test_an_unknown_task_names_the_nearest():
    with pytest.raises((ConfigError, ValueError), match=r"no task `aime24`. Did you mean `aime20"):
        choose("aime24")


def test_a_task_whose_programs_cannot_be_run_is_refused_before_answers_are_paid_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from distill.verifiers import code

    def none(config: code.Config) -> None:
        raise DistillError("no sandbox here")

    monkeypatch.setattr(code, "ready", none)

    assert task.fault(choose_made("humaneval", tmp_path)) == "task `humaneval`: no sandbox here"
    assert task.fault(choose_made("gsm8k", tmp_path)) is None


def test_a_missing_package_is_said_with_its_install_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)

    assert "pip install 'reasoning-distill[gym]'" in (task.fault(choose("reasoning_gym")) or "")


# ---- the Hub

HUB = {
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "math500": ("HuggingFaceH4/MATH-500", None, "test"),
    "aime2024": ("HuggingFaceH4/aime_2024", None, "train"),
    "aime2025": ("yentinglin/aime_2025", None, "train"),
    "gpqa": ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    "mmlu_pro": ("TIGER-Lab/MMLU-Pro", None, "test"),
    "arc": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "humaneval": ("openai/openai_humaneval", None, "test"),
    "mbpp": ("google-research-datasets/mbpp", "full", "test"),
    "ifeval": ("google/IFEval", None, "train"),
}


@pytest.mark.parametrize("name", list(HUB))
def test_what_is_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import datasets

    asked: list[Any] = []

    def load(path: str, config: str | None, **named: Any) -> Any:
        asked.append((path, config, named["split"], named["revision"]))
        return datasets.Dataset.from_list([made.row for made in MADE[name]])

    monkeypatch.setattr(datasets, "load_dataset", load)
    problems = task.load(choose(name, revision="e53f048"))

    assert asked == [(*HUB[name], "e53f048")]
    assert task.fingerprint(problems) == task.fingerprint(task.load(choose_made(name, tmp_path)))


@pytest.mark.parametrize("name", list(HUB))
def test_a_copy_of_the_whole_data_set_is_read_by_configuration_and_split(name: str, tmp_path: Path):
    _, config, split = HUB[name]
    config = config or "default"
    folder = tmp_path / "copy"
    write(folder / "other" / "rows.jsonl", [MADE[name][0].row])
    write(folder / config / "rows.jsonl", [made.row for made in MADE[name]])
    folder.joinpath("README.md").write_text(
        "---\nconfigs:\n"
        f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}/*.jsonl\n"
        f"  - split: more\n    path: other/*.jsonl\n"
        "---\n"
    )

    problems = task.load(choose(name, path=str(folder)))

    assert len(problems) == len(MADE[name])
    assert task.fingerprint(problems) == task.fingerprint(task.load(choose_made(name, tmp_path)))
    with pytest.raises(DistillError, match=rf"^evaluate: task `{name}`: data set .*copy.*split none") as caught:
        task.load(choose(name, path=str(folder), from_split="none"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*HUB, "livecodebench"])
@pytest.mark.parametrize("kind", ["gated", "missing", "no network", "no answer"])
def test_a_data_set_that_cannot_be_had_is_one_clear_line(name: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    import datasets
    import huggingface_hub
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError

    gone: Any = SimpleNamespace(headers={}, request=None, status_code=403)
    raised = {
        "gated": GatedRepoError("Access is restricted\n\nask for it", response=gone),
        "missing": DatasetNotFoundError("It doesn't exist\non the Hub."),
        "no network": ConnectionError("Couldn't reach the Hub"),
        "no answer": transport_faults()("[Errno 111] Connection refused"),
    }[kind]

    def refuse(*_: Any, **__: Any) -> Any:
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    choice = choose(name, revision="e53f048")

    with pytest.raises(DistillError, match=rf"^evaluate: task `{name}`: data set .*whether you have access") as caught:
        task.load(choice)

    assert "\n" not in str(caught.value)
