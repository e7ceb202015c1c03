"""Real vocabularies, from a Hugging Face tokenizer through our GGUF header to llama.cpp: the ids that llama.cpp's own
tests expect, from all three."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import DistillError
from distill.export import proof
from distill.export.runtime import Questions, ask
from distill.gguf.convert import convert
from distill.gguf.tokenizer import read_vocabulary
from tests.tiny import make_tiny_model

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


@cache
def header(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    return {name.rpartition(".")[2]: field.contents() for name, field in fields.items() if name.startswith("tokenizer")}


def expected(path: Path) -> list[tuple[str, list[int]]]:
    """llama.cpp's test texts with the ids that it expects of them."""
    texts = path.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = path.with_suffix(".gguf.out").read_text(encoding="utf-8").splitlines()
    pairs = [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=False)]
    assert len(pairs) > 40
    return pairs


def byte_level(held: dict[str, Any]) -> dict[str, Any]:
    """GPT-2's tokenizer.json, from the header of its GGUF file."""
    return {
        "pre_tokenizer": BYTES, "decoder": BYTES, "normalizer": None, "post_processor": None,
        "added_tokens": added_tokens(held),
        "model": {
            "type": "BPE", "vocab": {piece: place for place, piece in enumerate(held["tokens"])},
            "merges": [merge.split(" ") for merge in held["merges"]], "byte_fallback": False, "ignore_merges": False,
        },
    }  # fmt: skip


def sentencepiece(held: dict[str, Any]) -> dict[str, Any]:
    """A SentencePiece BPE's tokenizer.json, merges from its scores as transformers' own conversion derives them."""
    vocab = {piece: place for place, piece in enumerate(held["tokens"]) if held["token_type"][place] != 2}
    normal = {held["tokens"][place] for place, kind in enumerate(held["token_type"]) if kind == 1}
    merges = []
    for piece in normal:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        found = [(vocab[a], vocab[b], a, b) for a, b in cuts if a in normal and b in normal]
        merges += [(-held["scores"][vocab[piece]], left, right, a, b) for left, right, a, b in found]
    return {
        "pre_tokenizer": None, "decoder": None, "post_processor": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]},
        "added_tokens": added_tokens(held),
        "model": {
            "type": "BPE", "vocab": vocab, "merges": [[a, b] for *_, a, b in sorted(merges)], "byte_fallback": True,
            "fuse_unk": True, "unk_token": "<unk>", "ignore_merges": False,
        },
    }  # fmt: skip


def added_tokens(held: dict[str, Any]) -> list[dict[str, Any]]:
    """Control tokens are special, user-defined ones are not."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    kinds = {place: kind for place, kind in enumerate(held["token_type"]) if kind in (3, 4)}
    return [
        {"id": place, "content": held["tokens"][place], **flags, "special": kind != 4} for place, kind in kinds.items()
    ]


def model_of(folder: Path, content: dict[str, Any], held: dict[str, Any]) -> Path:
    """A tiny model with that tokenizer."""
    make_tiny_model(folder, architecture="llama", padded_vocab=len(held["tokens"]), hidden=32, layers=1)
    whole = {"version": "1.0", "truncation": None, "padding": None, **content}
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    special = {role: held["tokens"][held[f"{role}_token_id"]] for role in ("bos", "eos")}
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": text for role, text in special.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": held["eos_token_id"]}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("name", "content_of"), [("gpt-2", byte_level), ("phi-3", sentencepiece)])
def test_ids_are_llama_cpps_three_ways(shared_data: Path, tmp_path: Path, name: str, content_of: Any):
    from transformers import AutoTokenizer

    path = shared_data / "tokenizer_vocabs" / f"ggml-vocab-{name}.gguf"
    held, pairs = header(path), expected(path)
    folder = model_of(tmp_path / "model", content_of(held), held)
    file = tmp_path / "model.gguf"
    convert(folder, file, "f16")

    texts = [text for text, _ in pairs]
    said = ask(file, Questions(texts=texts), log=tmp_path / "log")
    auto = AutoTokenizer.from_pretrained(folder)

    wrong = [(text, due, got) for (text, due), got in zip(pairs, said.text_ids, strict=True) if due != got]
    assert wrong == []
    assert [auto(text, add_special_tokens=False)["input_ids"] for text in texts] == [due for _, due in pairs]


@pytest.mark.parametrize(("name", "content_of"), [("gpt-2", byte_level), ("phi-3", sentencepiece)])
def test_the_header_is_llama_cpps_own(shared_data: Path, tmp_path: Path, name: str, content_of: Any):
    held = header(shared_data / "tokenizer_vocabs" / f"ggml-vocab-{name}.gguf")
    vocabulary = read_vocabulary(model_of(tmp_path / "model", content_of(held), held), len(held["tokens"]))

    assert (vocabulary.model, vocabulary.pre) == (held["model"], held["pre"])
    assert vocabulary.pieces == held["tokens"]
    unknown = held.get("unknown_token_id")  # llama.cpp's converter has it as control where it is an added token
    kinds = enumerate(zip(vocabulary.kinds, held["token_type"], strict=True))
    unlike = {place: (int(ours), due) for place, (ours, due) in kinds if int(ours) != due and place != unknown}
    assert set(unlike.values()) <= {(5, 2)}  # rows without a token: unused today, "unknown" when this file was made
    assert all(vocabulary.pieces[place] == f"[PAD{place}]" for place in unlike)
    assert (vocabulary.bos, vocabulary.eos) == (held["bos_token_id"], held["eos_token_id"])
    assert vocabulary.merges == held.get("merges", [])  # SentencePiece has scores instead: the ids above prove those


def test_falcons_split_is_refused_by_its_structure(shared_data: Path, tmp_path: Path):
    held = header(shared_data / "tokenizer_vocabs" / "ggml-vocab-falcon.gguf")
    digits = {"type": "Digits", "individual_digits": False}
    split = {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False}
    steps = [{"type": "Punctuation", "behavior": "Contiguous"}, BYTES, digits, split]
    content = {**byte_level(held), "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}

    with pytest.raises(DistillError, match="llama.cpp has no pre-tokenizer known here.*export `safetensors`"):
        read_vocabulary(model_of(tmp_path / "model", content, held), len(held["tokens"]))


def test_a_real_small_tokenizer_with_think_tokens_agrees_on_every_probe(shared_data: Path, tmp_path: Path):
    """MiniMind's tokenizer as it is: proof tier 1 in full, ids three ways on all probes, chats and stops."""
    source, folder = shared_data / "tokenizer_minimind", tmp_path / "model"
    make_tiny_model(folder, architecture="llama", padded_vocab=6400, hidden=32, layers=1)
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja"):
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "generation_config.json").unlink()
    file = tmp_path / "model.gguf"

    checks = proof.opens(file, folder, convert(folder, file, "f16"), tmp_path / "log")

    assert [(check.name, check.missed) for check in checks] == [
        ("opens", None), ("ids", None), ("chat", None), ("stops", None),
    ]  # fmt: skip
