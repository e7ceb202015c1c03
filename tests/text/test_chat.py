"""Prompts as ids: prefill, BOS, template arguments, stop ids, and the two readings of one tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core.errors import DistillError
from distill.core.records import Message
from distill.text.chat import (
    check_tokenizer,
    decode,
    load_tokenizer,
    render_prompt,
    render_text,
    stop_ids,
    vocabulary_size,
)
from tests.tiny import make_tiny_model, tiny_tokenizer

QUESTION = (Message("user", "What is 17*23?"),)
LLAMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}<|User|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("thinking", "tail", "opened"),
    [(None, "<think>\n", True), (True, "<think>\n", True), (False, "<think>\n\n</think>\n\n", False)],
)
def test_prefill_is_what_the_template_wrote_for_the_model(tokenizer, thinking, tail, opened):
    prompt = render_prompt(tokenizer, QUESTION, thinking)

    assert tokenizer.decode(prompt.prefill_ids) == tail
    assert tokenizer.decode(prompt.prompt_ids) == "<|begin|><|User|>What is 17*23?<|Assistant|>"
    assert prompt.opened is opened


@pytest.mark.parametrize("thinking", [None, True, False])
def test_ids_equal_transformers_own_rendering(tokenizer, thinking):
    messages = (Message("system", "Be brief."), *QUESTION, Message("assistant", "391"), Message("user", "Sure?"))
    turns = [{"role": message.role, "content": message.content} for message in messages]
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **arguments)["input_ids"]

    assert list(render_prompt(tokenizer, messages, thinking).ids) == expected


def test_a_template_without_thinking_gives_no_prefill(tmp_path):
    plain = tiny_tokenizer(tmp_path, template=LLAMA_LIKE)

    prompt = render_prompt(plain, QUESTION)

    assert prompt.prefill_ids == () and not prompt.opened
    assert plain.decode(prompt.prompt_ids).endswith("<|Assistant|>")


def test_a_question_that_mentions_the_tag_is_not_a_prefill(tmp_path):
    plain = tiny_tokenizer(tmp_path, template=LLAMA_LIKE)

    prompt = render_prompt(plain, (Message("user", "What does <think> mean?"),))

    assert prompt.prefill_ids == () and not prompt.opened


def test_at_most_one_bos(tmp_path):
    doubled = tiny_tokenizer(tmp_path, template="{{ bos_token }}" + LLAMA_LIKE)

    ids = render_prompt(doubled, QUESTION).ids

    assert ids.count(doubled.bos_token_id) == 1 and ids[0] == doubled.bos_token_id


def test_thinking_reaches_the_template_only_when_it_is_set(tmp_path):
    told = tiny_tokenizer(tmp_path, template="{{ 'set' if enable_thinking is defined else 'unset' }}")

    assert [render_text(told, QUESTION, value)[0] for value in (None, True, False)] == ["unset", "set", "set"]


def test_no_template_and_a_template_that_refuses_are_one_line_each(tmp_path):
    none = tiny_tokenizer(tmp_path / "none")
    none.chat_template = None
    refusing = tiny_tokenizer(tmp_path / "refusing", template="{{ raise_exception('users only') }}")

    with pytest.raises(DistillError, match="no chat template"):
        render_prompt(none, QUESTION)
    with pytest.raises(DistillError, match="users only"):
        render_prompt(refusing, QUESTION)


@pytest.mark.parametrize(("named", "expected"), [(None, {2}), (7, {2, 7}), ([7, 8, 2], {2, 7, 8})])
def test_stop_ids_join_generation_config_and_tokenizer(tokenizer, named, expected):
    assert tokenizer.eos_token_id == 2

    assert stop_ids(tokenizer, SimpleNamespace(eos_token_id=named)) == expected


def test_vocabulary_size_counts_added_tokens(tokenizer):
    assert vocabulary_size(tokenizer) == len(tokenizer) == 320


def test_a_tokenizer_that_transformers_reads_otherwise_is_refused(tmp_path):
    """A folder of type qwen2 gets Qwen2's regex, whatever its tokenizer.json says (here: digits in threes)."""
    folder = make_tiny_model(tmp_path / "model", architecture="qwen2", vocab=400)
    assert load_tokenizer(folder) is not None
    content = json.loads((folder / "tokenizer.json").read_text())
    split = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace(r"\p{N}|", r"\p{N}{1,3}|")
    content["model"]["merges"].insert(0, ["1", "7"])
    content["model"]["vocab"]["17"] = len(content["model"]["vocab"]) + 200
    (folder / "tokenizer.json").write_text(json.dumps(content))

    with pytest.raises(DistillError, match=r"Qwen2Tokenizer.*tokenizer\.json"):
        load_tokenizer(folder)


def test_decoding_keeps_every_token_and_space(tokenizer):
    text = "<|User|> a ,  b .\n<think>\n \u00e9\U0001f600</think><|end|>"

    assert decode(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert decode(tokenizer, tokenizer("\u00e9", add_special_tokens=False)["input_ids"][:1]) == "\ufffd"


def test_a_folder_without_tokenizer_is_refused(tmp_path, tiny_model):
    shutil.copy(Path(tiny_model) / "config.json", tmp_path / "config.json")

    with pytest.raises(DistillError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_the_check_itself_can_fail(tmp_path):
    mine, other = tiny_tokenizer(tmp_path / "a", vocab=320), tiny_tokenizer(tmp_path / "b", vocab=300)

    check_tokenizer(mine, tmp_path / "a")
    with pytest.raises(DistillError):
        check_tokenizer(other, tmp_path / "a")
