"""The shipped teacher: its folder, tokenizer and template are what the pipeline relies on, and it can reason."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from distill import embedded
from distill.sources import embedded as problems
from teachers.embedded.recipe import MODEL, RECIPE, numbers, solutions

QUESTION = [{"role": "user", "content": "What is 17*23?"}]
PROBES = [
    "What is 17*23? 12345 007 3.14",
    "<think>\n17*20=340\n</think>\n\nAnswer: \\boxed{391}",
    "<|User|>special text inside<|begin|> <|end|>",
    "def f(x):\n\treturn x  # it's John's\r\n\r\n  end",
    "你好，世界 🙂🙃 ① é e\u0301 ﬁ \u00a0 \u200b",
    "   leading and trailing   ",
    "",
]


@pytest.fixture(scope="module")
def raw() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def auto():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def render(auto, messages, **settings) -> str:
    return auto.apply_chat_template(messages, tokenize=False, **{"add_generation_prompt": True, **settings})


@given(st.text())
def test_decoding_gives_any_text_back(text: str):
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))

    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", PROBES)
def test_transformers_and_the_file_give_the_same_ids(auto, raw: Tokenizer, text: str):
    ids = raw.encode(text).ids

    assert auto.encode(text) == ids
    assert auto(text)["input_ids"] == ids
    assert auto.decode(ids) == text


def test_the_vocabulary_is_small_and_has_every_byte(raw: Tokenizer):
    assert raw.get_vocab_size() <= 1500
    assert raw.get_vocab_size() == json.loads((MODEL / "config.json").read_text())["vocab_size"]
    assert all(raw.decode(raw.encode(chr(code)).ids) == chr(code) for code in range(0x20, 0x7F))
    assert len({raw.token_to_id(letter) for letter in _byte_letters()} - {None}) == 256


def _byte_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def test_digits_are_single_and_qwen2_s_expression_is_verbatim(raw: Tokenizer):
    settings = json.loads((MODEL / "tokenizer.json").read_text())

    assert raw.encode("12345").tokens == list("12345")
    assert settings["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert settings["normalizer"] is None


def test_think_tags_are_one_id_each_and_not_special(auto, raw: Tokenizer):
    for tag in ("<think>", "</think>"):
        (token,) = raw.encode(tag).ids
        assert token not in auto.all_special_ids
        assert auto.decode([token], skip_special_tokens=True) == tag


def test_pad_is_not_an_end_and_nothing_adds_a_bos(auto, raw: Tokenizer):
    generation = json.loads((MODEL / "generation_config.json").read_text())

    assert generation["eos_token_id"] == [auto.eos_token_id]
    assert auto.pad_token_id not in generation["eos_token_id"]
    assert generation["pad_token_id"] == auto.pad_token_id
    assert generation["bos_token_id"] == auto.bos_token_id
    assert raw.encode("x").ids == raw.encode("x", add_special_tokens=False).ids
    assert raw.encode(render(auto, QUESTION)).ids.count(auto.bos_token_id) == 1


def test_the_template_opens_thinking_or_closes_it_at_once(auto):
    assert render(auto, QUESTION) == "<|begin|><|User|>What is 17*23?<|Assistant|><think>\n"
    assert render(auto, QUESTION, enable_thinking=True) == render(auto, QUESTION)
    assert render(auto, QUESTION, enable_thinking=False) == (
        "<|begin|><|User|>What is 17*23?<|Assistant|><think>\n\n</think>\n\n"
    )


def test_the_template_is_what_the_recipe_trained_on(auto):
    for thinking in (True, False):
        assert render(auto, QUESTION, enable_thinking=thinking) == embedded.prompt_text(
            "What is 17*23?", thinking=thinking
        )


def test_the_template_shows_history_without_its_thinking(auto):
    past = [*QUESTION, {"role": "assistant", "content": "<think>\n17*20=340\n</think>\n\nAnswer: \\boxed{391}"}]

    text = render(auto, [{"role": "system", "content": "Be brief."}, *past, {"role": "user", "content": "And 2*2?"}])

    assert text == (
        "<|begin|>Be brief.<|User|>What is 17*23?<|Assistant|>Answer: \\boxed{391}<|end|>"
        "<|User|>And 2*2?<|Assistant|><think>\n"
    )


def test_documents_train_the_reply_and_never_the_question(raw: Tokenizer):
    document = embedded.dialogue("What is 17*23?", "17*20=340", "Answer: \\boxed{340}")

    ((ids, trained),) = embedded.encode(raw, [document])

    assert raw.decode([i for i, t in zip(ids, trained, strict=True) if t], skip_special_tokens=False) == (
        "17*20=340\n</think>\n\nAnswer: \\boxed{340}<|end|>"
    )


def test_step_lists_train_the_results_only(raw: Tokenizer):
    ((ids, trained),) = embedded.encode(raw, [embedded.step_list(["2*3=6", "10+5=15"])])

    assert raw.decode([i for i, t in zip(ids, trained, strict=True) if t]) == "6\n15\n"


@pytest.mark.parametrize("phase", [solutions, numbers])
def test_the_recipe_reads_problems_of_its_own_pool_only(phase: Callable[[int], Iterator[embedded.Document]]):
    texts = [document.text for document in itertools.islice(phase(0), 1000)]
    questions = {text.partition("<|User|>")[2].partition("<|Assistant|>")[0] for text in texts} - {""}
    seen = {item.question for pool in ("base", "sampling", "dev", "test") for item in problems.draw(pool, 3000, 0)}

    assert len(questions) > 200
    assert not questions & seen


def test_a_short_training_run_learns_and_writes_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    embedded.run_recipe(RECIPE, 0, tmp_path, steps=2)

    assert "step     2  loss" in capsys.readouterr().out
    assert (tmp_path / "tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.vocab_size == len(
        AutoTokenizer.from_pretrained(tmp_path)
    )


def test_the_card_names_the_weights_that_are_there():
    assert embedded.weights_fingerprint(MODEL) in (MODEL / "README.md").read_text()


def test_rows_are_multiples_of_256_so_that_k_quants_apply():
    config = json.loads((MODEL / "config.json").read_text())

    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    assert 1_000_000 <= embedded.count_parameters(MODEL) <= 3_000_000


def test_it_solves_most_problems_but_not_all():
    items = problems.draw("test", 60, 7)

    told = embedded.answers(MODEL, [embedded.prompt_text(i.question) for i in items], temperature=0.6)

    right = sum(embedded.is_right(text, item.gold) for (text, _), item in zip(told, items, strict=True))
    assert 42 < right <= 60


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("17*3=51\n</think>\n\nAnswer: \\boxed{51}", True),
        ("17*3=51\n</think>\n\nAnswer: \\boxed{52}", False),
        ("Answer: \\boxed{51}", False),  # never closed its thinking
        ("\\boxed{51}</think> \\boxed{5}", False),
        ("</think> \\boxed{51} or \\boxed{5}", False),
    ],
)
def test_right_means_the_only_box_after_the_thinking(text: str, right: bool):
    assert embedded.is_right(text, "51") is right
