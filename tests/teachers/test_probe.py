"""What `probe` finds out about teachers of every mood, and that it says nothing it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill.cli import app
from distill.core.errors import DistillError
from distill.core.stage import Report
from students.settings import Config as StudentConfig
from teachers import probe
from teachers.sample import Config as SampleConfig
from teachers.settings import Config as TeacherConfig
from tests.e2e import small
from tests.teachers import moody_engine

ENGINE = "tests.teachers.moody_engine"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    moody_engine.ASKED.clear()


def probed(student: str | None = None, model: str = "me/model", **habits: Any) -> Report:
    teacher = {name: habits.pop(name) for name in ("family", "price", "arguments") if name in habits}
    sections: dict[str, Any] = {
        "teacher": TeacherConfig.model_validate({"model": model, "engine": {"engine": ENGINE, **habits}, **teacher}),
        "sample": SampleConfig(max_tokens=2048),
    }
    if student is not None:
        sections["student"] = StudentConfig(model=student)
    return probe.run(sections)


def seen(report: Report, name: str) -> str:
    word: str = report.data["settings"][name]["word"]
    return word


SETTINGS = ("seed", "temperature", "top_p", "top_k", "max_tokens", "thinking off")


def test_a_server_that_honours_everything():
    report = probed()

    assert {name: seen(report, name) for name in SETTINGS} == dict.fromkeys(SETTINGS, "honoured")
    assert seen(report, "unknown setting") == "ignored"
    assert report.data["kl"] and report.data["kl_why_not"] == ""
    assert report.data["logprobs"]["top"] == 20
    assert "128 refused: 400" in report.data["logprobs"]["note"]
    assert (report.data["reasoning"]["where"], report.data["reasoning"]["kind"]) == ("inline", "full")
    assert report.data["context"] == 4096


@pytest.mark.parametrize(
    ("habit", "setting"),
    [
        ("seed", "seed"), ("repeat", "seed"), ("temperature", "temperature"), ("zero", "temperature"),
        ("top_p", "top_p"), ("top_k", "top_k"), ("max_tokens", "max_tokens"), ("thinking", "thinking off"),
    ],
)  # fmt: skip
def test_a_setting_that_is_ignored_is_found_out(habit: str, setting: str):
    report = probed(ignores=[habit])

    assert seen(report, setting) == "ignored"
    others = {name: seen(report, name) for name in SETTINGS if name != setting}
    if habit == "repeat":  # no text can be told from chance then, but for those that one token alone can make
        assert others["top_k"] == others["top_p"] == others["temperature"] == "honoured"
    else:
        assert set(others.values()) == {"honoured"}


@pytest.mark.parametrize(
    ("habit", "setting"),
    [("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k"), ("arguments", "unknown setting"),
     ("thinking", "thinking off")],
)  # fmt: skip
def test_a_setting_that_is_refused_is_told_in_the_server_s_words(habit: str, setting: str):
    report = probed(refuses=[habit])

    assert seen(report, setting) == "refused"
    assert report.data["settings"][setting]["why"] == f"400: {habit} is not supported"


@pytest.mark.parametrize(
    ("habits", "where", "kind", "note"),
    [
        ({}, "inline", "full", "between <think> and </think>"),
        ({"text": "17 + 25 is 42</think>\\boxed{42}"}, "inline", "full", "up to </think>; the template"),
        ({"text": "\\boxed{42}", "field": "reasoning_content"}, "field", "full", "`reasoning_content`"),
        ({"text": "\\boxed{42}", "field": "reasoning"}, "field", "full", "`reasoning`"),
        ({"text": "\\boxed{42}"}, "nowhere", "none", "all of the text is answer"),
        ({"text": "\\boxed{42}", "hidden": True}, "hidden", "hidden", "billed"),
        ({"text": "\\boxed{42}", "family": "openai-o"}, "hidden", "hidden", "billed"),
        (
            {"text": "\\boxed{42}", "family": "claude", "field": "thinking_blocks"},
            "field",
            "summary",
            "thinking_blocks",
        ),
        ({"text": "\\boxed{42}", "family": "deepseek-r1"}, "nowhere", "none", "counts as unfinished"),
        ({"text": "\\boxed{42}", "family": "deepseek-r1", "cut": True}, "inline", "full", "presumably"),
        ({"text": "<|channel|>analysis<|message|>x<|end|>", "family": "gpt-oss"}, "inline", "full", "harmony"),
        ({"text": "<|channel|>analysis<|message|>x<|end|>"}, "nowhere", "none", "teacher.family: gpt-oss"),
        ({"text": "◁think▷x◁/think▷y"}, "nowhere", "none", "teacher.family: kimi"),
        ({"text": "<think>x</think>y", "family": "kimi"}, "nowhere", "none", "teacher.family: deepseek-r1"),
    ],
)
def test_where_reasoning_arrives(habits: dict[str, Any], where: str, kind: str, note: str):
    reasoning = probed(**habits).data["reasoning"]

    assert (reasoning["where"], reasoning["kind"]) == (where, kind)
    assert note in reasoning["note"]


def test_a_stop_token_that_a_server_leaves_in_the_text_is_pointed_out():
    report = probed(text="<think>x</think>\\boxed{42}<|im_end|>")

    assert report.data["reasoning"]["stop_token"] == "<|im_end|>"
    assert probed().data["reasoning"]["stop_token"] == ""


@pytest.mark.parametrize(
    ("habits", "why"),
    [
        ({"cap": 0}, "gives no log-probabilities"),
        ({"named": False}, "tokens come as text, not as ids"),
        ({"tokenizer": None}, "set the engine's `tokenizer`"),
        ({"student": "embedded"}, "another tokenizer"),
    ],
)
def test_kl_is_refused_with_its_reason(habits: dict[str, Any], why: str):
    report = probed(**habits)

    assert not report.data["kl"]
    assert why in report.data["kl_why_not"]
    assert report.rows[-1] == {
        "what": "allows",
        "found": "SFT on reasoning and answers",
        "note": f"no KL: {report.data['kl_why_not']}",
    }


def test_settings_that_the_interface_does_not_take_are_not_sent():
    report = probed(family="openai-o", text="\\boxed{42}")

    assert {seen(report, name) for name in ("temperature", "top_p", "top_k")} == {"not sent"}
    assert all(request.sampling.temperature is None and request.sampling.top_k == 0 for request in moody_engine.ASKED)
    assert "SFT on answers only" in report.summary


def test_it_asks_as_the_experiment_would_and_pays_little(capsys: pytest.CaptureFixture[str]):
    report = probed(model="deepseek-ai/DeepSeek-R1", price={"input": 1000.0, "output": 2000.0})

    first = moody_engine.ASKED[0]
    assert first.messages[-1].content.endswith("put your final answer within \\boxed{}.")
    assert (first.sampling.temperature, first.sampling.max_tokens) == (0.6, probe.FIRST_TOKENS)
    assert len(moody_engine.ASKED) == report.data["calls"] <= probe.MOST_CALLS
    assert sum(request.sampling.max_tokens for request in moody_engine.ASKED) <= probe.MOST_TOKENS
    tokens = report.data["prompt_tokens"], report.data["completion_tokens"]
    assert report.data["cost"] == pytest.approx((tokens[0] * 1000 + tokens[1] * 2000) / 1e6)
    said = capsys.readouterr().err
    assert "licence MIT" in said and f"at most {probe.MOST_CALLS} calls" in said and "in money" in said


def test_usage_that_the_server_keeps_to_itself():
    assert probed().data["usage_given"] is True
    assert probed(usage=False).data["usage_given"] is False


def test_a_teacher_that_does_not_answer_ends_the_probe():
    with pytest.raises(DistillError, match="401: wrong key"):
        probed(refuses=["everything"])
    assert len(moody_engine.ASKED) == 1


EXPERIMENT = """\
name: small
problems: {source: embedded}
teacher: {model: embedded, engine: llamacpp}
sample: {max_tokens: 160}
student: {model: embedded}
"""


def everything_is_there(data: dict[str, Any]) -> None:
    assert data["kl"] and data["logprobs"]["top"] == 128
    assert data["token_ids"] == {"prompt": True, "answer": True}
    assert (data["reasoning"]["where"], data["reasoning"]["kind"]) == ("inline", "full")
    assert {name: data["settings"][name]["word"] for name in SETTINGS} == dict.fromkeys(SETTINGS, "honoured")


def test_the_embedded_teacher_with_transformers():
    teacher, student = TeacherConfig(model="embedded"), StudentConfig(model="embedded")

    everything_is_there(
        probe.run({"teacher": teacher, "sample": SampleConfig(max_tokens=160), "student": student}).data
    )


def test_the_embedded_teacher_with_llama_cpp_on_the_command_line(tmp_path: Path):
    path = small.prepare(tmp_path, EXPERIMENT)

    done = small.run(tmp_path, "probe", path.name, "--json")

    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    everything_is_there(printed["counts"])
    assert [row["what"] for row in printed["rows"]][:3] == ["teacher", "reasoning", "answer"]
    assert not (tmp_path / "runs").exists()  # no ledger, no run


def test_arms_that_ask_the_same_teacher_are_probed_once(tmp_path: Path):
    text = """\
name: small
problems: {source: embedded}
teacher: {model: me/model, engine: {engine: tests.teachers.moody_engine}}
sample: {max_tokens: 100}
arms: {one: {}, same: {problems: {train: 5}}, other: {sample: {max_tokens: 200}}}
"""
    path = small.prepare(tmp_path, text)

    done = CliRunner().invoke(app, ["probe", str(path), "--workspace", str(tmp_path / "runs"), "--json"])

    assert done.exit_code == 0, done.output
    assert [json.loads(line)["counts"]["model"] for line in done.stdout.splitlines()] == ["me/model", "me/model"]


def test_an_experiment_without_a_teacher_is_refused(tmp_path: Path):
    path = small.prepare(tmp_path, "name: small\nproblems: {source: embedded}\n")

    done = small.run(tmp_path, "probe", path.name)

    assert done.returncode == 2
    assert "no section `teacher:`" in done.stderr
