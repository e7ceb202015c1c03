"""What goes wrong between a trace and a trained token, each seen in real tools, each with the row that avoids it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from distill.core.device import place
from distill.core.errors import DistillError
from distill.core.records import Message, Trace
from students import settings
from students.collate import Collator
from students.rows import StudentText, build_rows, read_student
from students.teacher_logits import TeacherLogits
from students.text_side import prepare
from students.written import write_student
from tests.students.made import a_trace, write_shard
from tests.templates import shared_templates, speaker, trl_templates
from tests.tiny import make_tiny_model

QUESTION = (Message("user", "What is 6*7?"),)
STRIPPING = ("deepseek_r1_distill", "qwen3", "qwen3_5_think", "nemotron_3_nano")
"""Templates of TRL's folder that show an earlier answer without its thinking, or open thinking in the prompt."""


def text_trace(reasoning: str | None = "6*7\n = 42\n\n", answer: str = "42.", **changes: Any) -> Trace:
    return Trace(
        **{"key": "a" * 64, "problem_id": "b" * 32, "messages": QUESTION, "reasoning": reasoning, "answer": answer}
        | changes
    )


def row_of(student: StudentText, trace: Trace) -> Any:
    return build_rows([trace], student, target="trace", max_length=None).rows[0]


def naive(student: StudentText, trace: Trace) -> tuple[list[int], list[int]]:
    """Prompt and whole chat as most tools make them: the template renders both, and the mask is their difference."""
    turns = [{"role": "user", "content": trace.messages[0].content}]
    answer = {"role": "assistant", "content": f"<think>\n{trace.reasoning}</think>\n\n{trace.answer}"}
    render = student.tokenizer.apply_chat_template
    prompt = render(turns, add_generation_prompt=True, return_dict=False)
    return prompt, render([*turns, answer, *turns], return_dict=False)


@pytest.mark.parametrize("name", STRIPPING)
def test_trap_1_a_template_that_strips_thinking_loses_none_of_it(tmp_path: Path, name: str) -> None:
    student = read_student(speaker(tmp_path / "m", trl_templates()[name]))
    trace = text_trace()
    assert "6*7\n = 42" not in student.decode(naive(student, trace)[1])  # what happens to others
    assert trace.reasoning in student.decode(row_of(student, trace).completion_ids)


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "qwen3_5_think", "nemotron_3_nano"])
def test_trap_2_the_prompt_is_a_prefix_of_its_row(tmp_path: Path, name: str) -> None:
    student = read_student(speaker(tmp_path / "m", trl_templates()[name]))
    prompt, whole = naive(student, text_trace())
    assert whole[: len(prompt)] != prompt  # what happens to others: the mask ends somewhere else
    row = row_of(student, text_trace())
    assert row.ids[: row.start].tolist() == prompt


@pytest.mark.parametrize("name", [*STRIPPING, "qwen2_5", "gemma", "llama3_2"])
def test_trap_3_one_opening_and_one_closing_tag_and_the_same_prompt_in_use(tmp_path: Path, name: str) -> None:
    base = speaker(tmp_path / "m", trl_templates()[name])
    asked = settings.Config(model=str(base), device="cpu")
    side = prepare(asked, base, None, tmp_path / "text", thinks=True)
    rows = build_rows([text_trace()], side.text, target="trace", max_length=None)
    row, text = rows.rows[0], side.text
    whole = text.decode(row.ids)
    assert (whole.count("<think>"), whole.count("</think>")) == (1, 1)
    opened = "<think>" in text.decode(row.ids[: row.start])
    assert rows.openers == {"in the prompt" if opened else "trained": 1}
    used = AutoTokenizer.from_pretrained(side.folder).apply_chat_template(
        [{"role": "user", "content": "What is 6*7?"}], add_generation_prompt=True, return_dict=False
    )
    assert used == row.ids[: row.start].tolist()


def test_trap_4_the_end_is_trained_and_the_students_generation_config_lists_it(tmp_path: Path) -> None:
    """Qwen2.5's bases stop at `<|endoftext|>`, their template ends a turn with `<|im_end|>`. That an overfitted student
    stops by itself is tested in test_train.py.
    """
    template = trl_templates()["qwen2_5"].replace("<|im_end|>", "<|User|>").replace("<|im_start|>", "<|Assistant|>")
    base = make_tiny_model(tmp_path / "m", layers=1, template=template)
    student = read_student(base)
    assert GenerationConfig.from_pretrained(base).eos_token_id == student.tokenizer.eos_token_id != student.end_id
    assert row_of(student, text_trace()).ids[-1] == student.end_id
    asked = settings.Config(model=str(base), device="cpu")
    write_student(tmp_path / "student", AutoModelForCausalLM.from_pretrained(base), asked, student, place("cpu"))
    listed = GenerationConfig.from_pretrained(tmp_path / "student").eos_token_id
    assert set(listed) == {student.end_id, student.tokenizer.eos_token_id}


def test_trap_5_padding_that_equals_the_end_token_hides_no_end(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "m", layers=1)
    about = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**about, "pad_token": about["eos_token"]}))
    student = read_student(base)
    assert student.tokenizer.pad_token_id == student.tokenizer.eos_token_id == student.end_id
    rows = build_rows([a_trace(student, n) for n in range(4)], student, target="trace", max_length=None).rows
    labels = Collator(list(rows), None)([{"row": n} for n in range(4)])["labels"]
    assert [(line == student.end_id).sum().item() for line in labels] == [1] * 4
    assert (labels >= 0).sum() == sum(len(row.completion_ids) for row in rows)


def test_trap_6_one_begin_of_text(tmp_path: Path) -> None:
    template = "{{ bos_token }}" + trl_templates()["llama3"]
    student = read_student(speaker(tmp_path / "m", template))
    bos = student.tokenizer.bos_token_id
    assert naive(student, text_trace())[0][:2] == [bos, bos]  # what happens to others
    assert row_of(student, text_trace()).ids.tolist().count(bos) == 1
    # a trace whose question names it has it twice, as the student would in use, and is no row
    question = (Message("user", f"What does {student.tokenizer.bos_token} mean?"),)
    with pytest.raises(DistillError, match="more than one BOS"):
        row_of(student, text_trace(messages=question))


def test_trap_7_a_long_row_is_dropped_and_counted_never_cut(tiny_model: Path) -> None:
    student = read_student(tiny_model)
    long = text_trace("1+1=2\n" * 400)
    rows = build_rows([a_trace(student, 1), long], student, target="trace", max_length=student.context)
    assert rows.dropped == {"over 512 tokens": 1} and rows.dropped_tokens["over 512 tokens"] > 2000
    assert [row.key for row in rows.rows] == [a_trace(student, 1).key]
    cut = text_trace("1+1=", "", finish_reason="length", closed=False)
    assert not student.stop_ids & set(row_of(student, cut).ids.tolist())


def test_trap_8_a_row_without_a_trained_token_is_dropped_and_counted(tiny_model: Path) -> None:
    """That one inside a batch gives zero loss and finite gradients is tested in test_trainer.py."""
    student = read_student(tiny_model)
    empty = text_trace(None, "", completion_ids=(), finish_reason="length")
    rows = build_rows([a_trace(student, 1), empty], student, target="trace", max_length=None)
    assert rows.dropped == {"nothing to train on": 1} and len(rows.rows) == 1


def test_trap_9_tokenizers_that_only_look_equal_are_told_apart(tmp_path: Path, tiny_model: Path) -> None:
    """Two ids changed places: same size, same special tokens, the same text for most of what is written."""
    other = make_tiny_model(tmp_path / "m", layers=1)
    content = json.loads((other / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    teacher, student = read_student(tiny_model), read_student(other)
    trace = a_trace(teacher, 1)
    row = row_of(student, trace)
    assert row.rendered == "another tokenizer"
    write_shard(tmp_path / "logits-0.safetensors", [trace], teacher.vocab_size, tokenizer=teacher.fingerprint)
    with pytest.raises(DistillError, match="is not the student's"):
        TeacherLogits(
            [tmp_path / "logits-0.safetensors"], tokenizer=student.fingerprint, vocab_size=student.vocab_size, top_k=8,
            same=student.same_tokenizers,
        )  # fmt: skip


def test_trap_9_a_tokenizer_written_otherwise_is_the_same(tmp_path: Path, tiny_model: Path) -> None:
    """The teacher's file says what the student's leaves out, and its head is padded: its ids are the student's."""
    teacher = make_tiny_model(tmp_path / "teacher", layers=1, padded_vocab=400)
    content = json.loads((teacher / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.0
    (teacher / "tokenizer.json").write_text(json.dumps(content))
    drawn = a_trace(read_student(teacher), 1)
    asked = settings.Config(model=str(tiny_model), device="cpu")
    section = SimpleNamespace(model=str(teacher), revision=None, served=False)
    text = prepare(asked, tiny_model, section, tmp_path / "text", thinks=True).text
    assert drawn.tokenizer != text.fingerprint and drawn.tokenizer in text.same_tokenizers
    assert row_of(text, drawn).rendered == ""
    assert row_of(dataclasses.replace(text, same_tokenizers=frozenset()), drawn).rendered == "another tokenizer"


def test_shared_templates_are_the_ones_that_strip(shared_data: Path, tmp_path: Path) -> None:
    """The same three traps on the templates as their models were released with."""
    for name in ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "Qwen-QwQ-32B", "Qwen-Qwen3-0.6B"):
        base = speaker(tmp_path / name, shared_templates(shared_data)[name])
        student = read_student(base)
        row = row_of(student, text_trace())
        assert "6*7\n = 42\n\n</think>" in student.decode(row.completion_ids)
        assert "6*7\n = 42" not in student.decode(naive(student, text_trace())[1])
