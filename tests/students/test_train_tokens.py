"""Training with another template or with new think tokens: what is written is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.core.errors import DistillError
from distill.text.chat import load_tokenizer
from students import train
from students.rows import read_student
from tests.students.made import a_trace, stage_of
from tests.students.test_text_side import PLAIN, TAGS, without_tags

QUICK = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, "max_grad_norm": 10.0}


def run(tmp_path: Path, base: Path, **student: Any) -> Path:
    text = read_student(base)
    traces = [a_trace(text, n, completion_ids=None, prompt_ids=None, prefill_ids=None) for n in range(8)]
    stage = stage_of(tmp_path, base, traces=traces, train_settings=QUICK, student_settings=student, shard=False)
    train.run(stage)
    return stage.out


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["spare-ids", "add"])
def test_new_think_tokens_are_learned_and_written(tmp_path: Path, adapter: str, tied: bool, how: str) -> None:
    """Whole weights or an adapter: the rows of the two tags move, and the written folder reads them as single ids."""
    base = without_tags(tmp_path / "m", spare=2, tied=tied, padded_vocab=330)
    out = run(tmp_path / "run", base, think_tokens=how, adapter=adapter)
    student = out / "student"

    tokenizer = load_tokenizer(student)  # checks transformers against the file
    ids = [tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS]
    new = [each[0] for each in ids]
    page = json.loads((out / "contract.json").read_text())
    assert page["new_tokens"] == sorted(new) and [len(each) for each in ids] == [1, 1]
    assert AutoTokenizer.from_pretrained(student).chat_template

    before = AutoModelForCausalLM.from_pretrained(base)
    if adapter == "none":
        after = AutoModelForCausalLM.from_pretrained(student)
    else:
        from peft import PeftModel

        after = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), student).merge_and_unload()
    assert after.get_input_embeddings().weight.shape == before.get_input_embeddings().weight.shape == (330, 64)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        was_VH, is_VH = (getattr(model, name)().weight.detach() for model in (before, after))
        assert all(not torch.allclose(was_VH[token], is_VH[token]) for token in new)
        if adapter == "lora":  # and no other row moves
            kept = [token for token in range(330) if token not in new]
            assert torch.equal(was_VH[kept], is_VH[kept])
    assert (after.get_input_embeddings().weight is after.get_output_embeddings().weight) == tied or adapter == "lora"


def test_added_tokens_beyond_the_rows_grow_the_model(tmp_path: Path) -> None:
    base = without_tags(tmp_path / "m", padded_vocab=None)
    rows = json.loads((base / "config.json").read_text())["vocab_size"]
    student = run(tmp_path / "run", base, think_tokens="add") / "student"
    model = AutoModelForCausalLM.from_pretrained(student)
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == rows + 2
    assert len(load_tokenizer(student)) == rows + 2


def test_an_adapter_cannot_grow_its_base(tmp_path: Path) -> None:
    base = without_tags(tmp_path / "m", padded_vocab=None)
    with pytest.raises(DistillError, match="adapter.*spare-ids"):
        run(tmp_path / "run", base, think_tokens="add", adapter="lora")


def test_another_template_is_written_with_the_student(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "mine.jinja").write_text(PLAIN)
    out = run(tmp_path / "run", tiny_model, template=str(tmp_path / "mine.jinja"))
    text = read_student(out / "student")
    assert text.tokenizer.chat_template == PLAIN
    assert str(tmp_path) not in (out / "contract.json").read_text()
    turns = [{"role": "user", "content": "What is 6*7?"}]
    prompt = text.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|User|>What is 6*7?<|Assistant|>"
    assert json.loads((out / "contract.json").read_text())["thinking_opens"] == {"trained": 8}


def test_the_template_and_the_tokens_are_part_of_the_key(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "a.jinja").write_text(PLAIN)
    (tmp_path / "b.jinja").write_text(PLAIN + " ")
    (tmp_path / "c.jinja").write_text(PLAIN)

    def found(**given: Any) -> dict[str, str]:
        stage = stage_of(tmp_path / "s", tiny_model, train_settings=QUICK, student_settings=given)
        return train.externals(stage.sections)

    own, a, b, c = found(), *(found(template=str(tmp_path / f"{name}.jinja")) for name in "abc")
    assert a == c and len({json.dumps(each) for each in (own, a, b)}) == 3
