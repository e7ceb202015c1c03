"""tokenizer.json as GGUF's header holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from distill import embedded
from distill.core.errors import DistillError
from distill.gguf.tokenizer import LLAMA3_SPLIT, QWEN2_SPLIT, byte_level_name, read_vocabulary
from tests.tiny import tiny_tokenizer

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def split(regex: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, {**BYTES, "use_regex": False}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer(tmp_path)
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("pre_tokenizer", "ignore_merges", "name"),
    [
        (split(QWEN2_SPLIT), False, "qwen2"),
        (split(LLAMA3_SPLIT), True, "llama-bpe"),
        (split(LLAMA3_SPLIT), False, "smaug-bpe"),
        ({**BYTES, "use_regex": True}, False, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}],
            },
            False,
            "smollm",
        ),
    ],
)
def test_the_pre_tokenizer_is_named_by_its_structure(pre_tokenizer: Any, ignore_merges: bool, name: str):
    content = {"pre_tokenizer": pre_tokenizer, "model": {"ignore_merges": ignore_merges}}

    assert byte_level_name(Path("tokenizer.json"), content) == name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre_tokenizer": split(r"\p{N}{1,2}|\w+")}, r"\\\\p\{N\}\{1,2\}"),
        ({"pre_tokenizer": split(QWEN2_SPLIT), "model": {"ignore_merges": True}}, "with ignore_merges"),
        ({"pre_tokenizer": {**BYTES, "use_regex": False}}, "the split"),
        ({"pre_tokenizer": {**BYTES, "use_regex": True, "add_prefix_space": True}}, "add_prefix_space"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": None}, "the pre-tokenizer"),
        ({"normalizer": {"type": "Lowercase"}, "pre_tokenizer": split(QWEN2_SPLIT)}, "the normalizer Lowercase"),
    ],
)
def test_an_unknown_structure_is_refused_and_shown(changes: dict[str, Any], words: str):
    with pytest.raises(DistillError, match=f"{words}.*export `safetensors`"):
        byte_level_name(Path("tokenizer.json"), {"model": {}, **changes})


def test_the_projects_own_split_is_qwen2s():
    assert embedded.SPLIT == QWEN2_SPLIT


def test_pieces_types_and_special_ids(folder: Path):
    vocabulary = read_vocabulary(folder, 330)

    kinds = dict(zip(vocabulary.pieces, vocabulary.kinds, strict=True))
    assert kinds[embedded.END] == TokenType.CONTROL
    assert kinds[embedded.THINK] == TokenType.USER_DEFINED  # decoding must keep it
    assert kinds["a"] == TokenType.NORMAL
    assert vocabulary.pieces[320:] == [f"[PAD{place}]" for place in range(320, 330)]
    assert set(vocabulary.kinds[320:]) == {TokenType.UNUSED}
    assert [vocabulary.pieces[place] for place in (vocabulary.bos, vocabulary.eos)] == [embedded.BEGIN, embedded.END]
    assert vocabulary.template == embedded.CHAT_TEMPLATE
    assert (vocabulary.model, vocabulary.pre, vocabulary.add_bos) == ("gpt2", "qwen2", False)


def test_merges_are_read_as_pairs_and_as_strings(folder: Path):
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    edit(folder, model={**model, "merges": pairs})
    as_pairs = read_vocabulary(folder, 320).merges
    edit(folder, model={**model, "merges": [" ".join(pair) for pair in pairs]})

    assert read_vocabulary(folder, 320).merges == as_pairs != []


def test_a_tokenizer_longer_than_the_embedding_is_refused(folder: Path):
    with pytest.raises(DistillError, match="320 tokens, but the embedding has 319 rows"):
        read_vocabulary(folder, 319)


def test_bos_is_written_even_where_the_model_has_none(folder: Path):
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")

    vocabulary = read_vocabulary(folder, 320)

    assert vocabulary.bos == vocabulary.eos  # llama.cpp would take token 11 without the key
    assert not vocabulary.add_bos


def test_every_stop_id_is_kept_the_tokenizers_own_first(folder: Path):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 2, 4, 0]}), encoding="utf-8")

    vocabulary = read_vocabulary(folder, 320)

    assert vocabulary.stops == (2, 3, 4, 0)
    assert "llama.cpp stops at [0] only if" in vocabulary.notes[0]


def test_without_any_eos_it_is_refused(folder: Path):
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(DistillError, match="no EOS token"):
        read_vocabulary(folder, 320)


def test_a_post_processor_that_adds_bos_is_followed(folder: Path):
    single = [{"SpecialToken": {"id": embedded.BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {embedded.BEGIN: {"id": embedded.BEGIN, "ids": [1], "tokens": [embedded.BEGIN]}}
    step = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}
    edit(folder, post_processor={"type": "Sequence", "processors": [BYTES, step]})

    vocabulary = read_vocabulary(folder, 320)

    assert (vocabulary.add_bos, vocabulary.add_eos) == (True, False)


def test_a_real_small_vocabulary(shared_data: Path):
    vocabulary = read_vocabulary(shared_data / "tokenizer_minimind", 6400)

    assert vocabulary.pre == "gpt-2"
    assert len(set(vocabulary.pieces)) == 6400
    assert vocabulary.template is not None and "<think>" in vocabulary.template


def test_sentencepiece_with_byte_fallback_gets_scores_by_merge_rank(shared_data: Path):
    vocabulary = read_vocabulary(shared_data / "stories260k" / "hf", 512)

    assert (vocabulary.model, vocabulary.pre, vocabulary.add_bos, vocabulary.add_space_prefix) == (
        "llama",
        "default",
        True,
        True,
    )
    assert vocabulary.scores is not None and vocabulary.scores[259:262] == [0.0, -1.0, -2.0]
    assert vocabulary.kinds[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
