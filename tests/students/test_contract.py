"""The data contract: every template gives a sound row or says why not, and the page tells what is trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import ConfigError, DistillError
from distill.core.records import Message, Trace
from students import contract, settings, train
from students.rows import StudentText, build_rows, read_student
from tests.students.made import a_trace, stage_of
from tests.templates import shared_templates, speaker, trl_templates
from tests.tiny import make_tiny_model

USER = (Message("user", "What is 6*7? Do <think> first."),)
FORMS = {
    "user": USER,
    "system": (Message("system", "Be short."), *USER),
    "several turns": (Message("user", "1+1?"), Message("assistant", "2"), *USER),
}
REASONING = "6*7\n is <|im_end|>, no <|eot_id|>: </s> 42\n\n"
"""Names of control tokens that a model wrote as text, and line breaks of its own at the end."""


def make(folder: Path, messages: tuple[Message, ...], reasoning: str | None, scratch: Path) -> contract.Contract:
    trace = Trace(
        key="a" * 64, problem_id="b" * 32, messages=messages, reasoning=reasoning, answer="It is 42.", model_id="m"
    )
    return contract.make(
        [trace], settings.Config(model=str(folder), device="cpu"), folder, None, scratch, target="trace",
        max_length=None, plain_share=None,
    )  # fmt: skip


def prove(made: contract.Contract, reasoning: str | None) -> None:
    """What a sound row is, said once more and in other words than the code's."""
    text, row = made.side.text, made.rows.rows[0]
    prompt, trained = text.decode(row.ids[: row.start]), text.decode(row.ids[row.start :])
    turns = [{"role": message.role, "content": message.content} for message in next(iter(made.traces)).messages]
    end = text.decode(text.end_ids)
    tail = prompt.rpartition("first.")[2]
    assert trained.endswith(f"It is 42.{end}")
    assert text.end_id in text.stop_ids and row.ids[-1] == text.end_id
    assert not text.stop_ids & set(row.ids[row.start : -1].tolist())
    assert text.tokenizer.bos_token_id not in row.ids[row.start :]
    assert row.ids.tolist()[:2] != [text.tokenizer.bos_token_id] * 2
    if reasoning is None:
        assert (tail + trained).count("<think>") == (tail + trained).count("</think>") <= 1
        assert row.answer_at == row.start or trained.startswith("\n</think>")
        return
    assert reasoning in trained
    assert (tail + trained).count("<think>") == (tail + trained).count("</think>") == 1
    assert tail.count("<think>") + trained.count("<think>") == 1
    assert text.decode(row.ids[row.answer_at :]) == f"\n\nIt is 42.{end}"
    used = text.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert used == row.ids[: row.start].tolist()  # trap 3: what it is used on is what it was trained on


REFUSED = {
    "gptoss": "channel", "gptoss_training": "channel", "muse_glimmer": "to=user", "muse_glimmer_training": "to=user",
    **dict.fromkeys(
        ("idefics3", "idefics3_training", "smolvlm", "smolvlm_training", "llava_next", "llava_next_training"),
        "leaves out what the user says",
    ),
}  # fmt: skip
"""Templates under which no sound row can be made: answers in a channel of their own, or content in parts."""

NO_SYSTEM = {"gemma", "gemma_training", "google-gemma-2-2b-it"}
"""Templates that refuse a system message."""


def prove_template(name: str, template: str, tmp_path: Path) -> None:
    folder = speaker(tmp_path / "m", template)
    for number, (form, messages) in enumerate(FORMS.items()):
        for reasoning in (REASONING, None):
            scratch = tmp_path / f"{number}{reasoning is None}"
            scratch.mkdir()
            why = REFUSED.get(name) or ("System role not supported" if name in NO_SYSTEM and form == "system" else None)
            if why is None:
                prove(make(folder, messages, reasoning, scratch / "text"), reasoning)
                continue
            with pytest.raises(DistillError, match=why if form == "user" else None) as caught:
                make(folder, messages, reasoning, scratch / "text")
            assert "\n" not in str(caught.value)


SHARED = (
    "HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B", "Qwen-QwQ-32B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "google-gemma-2-2b-it", "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-deepseek-r1", "meta-llama-Llama-3.2-3B-Instruct", "microsoft-Phi-3.5-mini-instruct",
)  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_templates_of_real_models(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Traps 1, 2, 3, 4, 6 on every template of the shared data."""
    templates = shared_templates(shared_data)
    assert set(templates) == set(SHARED)
    prove_template(name, templates[name], tmp_path)


def _trl_names() -> list[str]:
    spec = find_spec("trl")
    assert spec is not None and spec.origin is not None
    return sorted(path.stem for path in (Path(spec.origin).parent / "chat_templates").glob("*.jinja"))


@pytest.mark.parametrize("name", [name for name in _trl_names() if not name.endswith("_training")])
def test_templates_of_trl(tmp_path: Path, name: str) -> None:
    """Its `_training` variants only add generation markers: they give the same rows (below)."""
    prove_template(name, trl_templates()[name], tmp_path)


@pytest.mark.parametrize("name", ["qwen3_training", "deepseek_r1_distill_training", "glm4moe_training"])
def test_generation_markers_change_no_row(tmp_path: Path, name: str) -> None:
    prove_template(name, trl_templates()[name], tmp_path)


@pytest.mark.slow
def test_every_template_with_generation_markers(tmp_path: Path) -> None:
    for name in _trl_names():
        if name.endswith("_training"):
            (tmp_path / name).mkdir()
            prove_template(name, trl_templates()[name], tmp_path / name)


ODD = (
    "  two spaces first",
    "a\tb\r\nc",
    "",
    " ",
    "\n",
    "e\u0301 \u4f60\u597d \U0001f600 \ufeff",
    "</s> <s> <unk> <|im_start|>",
)


@pytest.mark.parametrize("tokenizer", ["tokenizer_minimind", "stories260k/hf"])
@pytest.mark.parametrize("template", [None, "Qwen-QwQ-32B", "Qwen-Qwen3-0.6B", "meta-llama-Llama-3.2-3B-Instruct"])
def test_real_tokenizers(shared_data: Path, tmp_path: Path, tokenizer: str, template: str | None) -> None:
    """A byte-level one whose BOS begins every turn and whose template calls the argument `open_thinking`; a
    SentencePiece one with byte fallback, in which the think tags are text.
    """
    folder = tmp_path / "m"
    folder.mkdir()
    for path in (shared_data / tokenizer).iterdir():
        if path.suffix == ".json":
            shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps({"vocab_size": 6400, "max_position_embeddings": 4096}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(shared_templates(shared_data)[template])
    elif "stories" in tokenizer:
        with pytest.raises(DistillError, match="has no chat template; name one with `student.template`"):
            make(folder, USER, REASONING, tmp_path / "text")
        return
    for number, reasoning in enumerate((REASONING, None, *ODD)):
        prove(make(folder, USER, reasoning, tmp_path / f"text{number}"), reasoning)


# The page


def test_the_page_and_the_samples(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = read_student(tiny_model)
    traces = [a_trace(student, n) for n in range(12)]
    traces[3] = dataclasses.replace(traces[3], completion_ids=None, reasoning="a\x1b[31mb\n")
    traces[4] = dataclasses.replace(traces[4], completion_ids=None, reasoning=None)
    stage = stage_of(
        tmp_path, tiny_model, traces=traces,
        train_settings={"max_length": 60, "loss": {"name": "forward_kl", "top_k": 8}},
    )  # fmt: skip

    report, samples = train.dry_run(stage)

    rows = build_rows(traces, student, target="trace", max_length=60)
    data = report.data
    assert data["traces"] == 12 and data["rows"] == len(rows.rows) < 12
    assert data["dropped"] == dict(rows.dropped) == {"over 60 tokens": 12 - data["rows"]}
    lost = [len(row.ids) for row in build_rows(traces, student, target="trace", max_length=None).rows]
    assert data["dropped_tokens"] == {"over 60 tokens": sum(n for n in lost if n > 60)}
    assert data["rendered"] == {"no ids": 2} and data["without_reasoning"] == 1
    assert data["thinking_opens"] == {"in the prompt": data["rows"] - 1, "none": 1}
    assert data["kl_rows"] == data["rows"] - 2
    assert data["reasoning_tokens"] + data["answer_tokens"] == data["trained_tokens"] == rows.trained_tokens
    assert data["tokens"] == sum(len(row.ids) for row in rows.rows)
    assert data["length"]["longest"] <= 60 == data["length"]["limit"]
    assert data["rows_digest"] == rows.digest()
    assert json.loads(json.dumps(data)) == data
    assert not any(stage.out.iterdir())  # nothing is written

    assert len(samples) == contract.SAMPLES == 3
    assert {sample.about.partition("trained, ")[2] for sample in samples} == {"as drawn", "rendered: no ids"}
    contract.show(samples)
    shown = capsys.readouterr().out
    assert shown.count(">>>") == shown.count("<<<") == 4 and "<think>\n>>>" in shown
    assert "\x1b" not in shown and "a\\u001b[31mb" in shown


def test_colour_is_used_where_there_is_any(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    contract.show([contract.Sample("k", "about", "prompt", "thinking", "answer [bold]", "<|end|>")])
    shown = capsys.readouterr().out
    assert "\x1b[36mthinking\x1b[0m\x1b[32manswer [bold]" in shown and ">>>" not in shown


def test_long_samples_show_their_ends(tiny_model: Path) -> None:
    text = read_student(tiny_model)
    ids = text.encode("begin " + "1 2 3 4 " * 400 + "finish")
    shown = contract._shortened(text, ids)
    assert shown.startswith("begin") and shown.endswith("finish") and f"{len(ids) - 160:,} tokens" in shown


def test_training_keeps_the_page(tmp_path: Path, tiny_model: Path) -> None:
    """What a training was given is beside what it made, and equals what the dry run said."""
    settings_ = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    page, _ = train.dry_run(stage_of(tmp_path / "dry", tiny_model, train_settings=settings_))
    stage = stage_of(tmp_path / "run", tiny_model, train_settings=settings_)
    train.run(stage)
    assert json.loads((stage.out / "contract.json").read_text()) == page.data


def test_a_length_beyond_the_context_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    stage = stage_of(tmp_path, tiny_model, train_settings={"max_length": 513})
    with pytest.raises(DistillError, match="513, but the student's context ends at 512"):
        train.dry_run(stage)


def test_a_dry_run_loads_no_weights(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "m", layers=1)
    stage = stage_of(tmp_path / "s", model, train_settings={})
    (model / "model.safetensors").unlink()
    assert train.dry_run(stage)[0].data["rows"] == 20


# Rows without reasoning


def mixture(student: StudentText, thinking: int, plain: int) -> list[Trace]:
    kept = [a_trace(student, n) for n in range(thinking)]
    return kept + [a_trace(student, 1000 + n, completion_ids=None, reasoning=None) for n in range(plain)]


@pytest.mark.parametrize(("share", "expected"), [(None, 40), (0.0, 0), (0.25, 10), (0.5, 30), (0.99, 40)])
def test_the_share_of_rows_without_reasoning(tiny_model: Path, share: float | None, expected: int) -> None:
    student = read_student(tiny_model)
    traces = mixture(student, 30, 40)
    rows = build_rows(traces, student, target="trace", max_length=None, plain_share=share)
    assert rows.plain == expected and len(rows.rows) == 30 + expected
    assert rows.dropped.total() == 40 - expected and rows.dropped_tokens.total() == sum(rows.dropped_tokens.values())
    assert rows.openers["none"] == expected and rows.rendered["no ids"] == expected
    if share == 0.25:
        assert "over `plain_share` 0.25" in rows.dropped
        again = build_rows(traces[::-1], student, target="trace", max_length=None, plain_share=share)
        assert {row.key for row in again.rows} == {row.key for row in rows.rows}  # not a matter of order


def test_only_rows_without_reasoning_and_a_share_is_an_error(tiny_model: Path) -> None:
    student = read_student(tiny_model)
    with pytest.raises(DistillError, match="no row to train on: 3 over `plain_share` 0.25"):
        build_rows(mixture(student, 0, 3), student, target="trace", max_length=None, plain_share=0.25)


def test_a_share_beside_an_answer_only_target_is_refused() -> None:
    with pytest.raises(ValueError, match="leave `plain_share` out"):
        train.Config.model_validate({"target": "answer", "plain_share": 0.25})


# Which pairs a loss can match, before anything is bought


def sections(teacher: Path, student: Path, **loss: Any) -> dict[str, Any]:
    from teachers.settings import Config

    return {
        "teacher": Config.model_validate({"model": str(teacher)}),
        "student": settings.Config(model=str(student), device="cpu"),
        "train": train.Config.model_validate(loss),
    }


def test_a_pair_that_cannot_be_matched_is_refused_before_sampling(tmp_path: Path, tiny_model: Path) -> None:
    other = make_tiny_model(tmp_path / "other", layers=1)
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    loss = {"loss": {"name": "forward_kl"}}
    why = contract.refusal(sections(other, tiny_model, **loss), fetch=False)
    assert why is not None and "SFT only, because" in why and "\n" not in why
    assert contract.refusal(sections(other, tiny_model), fetch=False) is None
    assert contract.refusal(sections(tiny_model, tiny_model, **loss), fetch=False) is None
    found = train.check(sections(other, tiny_model, **loss))
    assert found is not None and found[0] == ("train", "loss") and "SFT only" in found[1]


def test_models_of_the_hub_are_not_fetched_to_check_settings(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sections(tiny_model, tiny_model, loss={"name": "forward_kl"})
    asked["student"] = settings.Config(model="someone/a-model", device="cpu")
    asked_for: list[str] = []

    def fetch(model: str, revision: str | None = None) -> Path:
        asked_for.append(model)
        raise ConfigError("no network in tests")

    monkeypatch.setattr(contract, "resolve_text", fetch)
    assert contract.refusal(asked, fetch=False) is None and not asked_for
    with pytest.raises(ConfigError):
        contract.refusal(asked, fetch=True)
    assert asked_for == ["someone/a-model"]
