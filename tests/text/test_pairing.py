"""Teacher and student side by side: which pairs can match logits, and why the others cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import DistillError
from distill.core.fingerprint import tokenizer_fingerprint
from distill.text.pairing import Entry, Vocabulary, compare, judge, read
from tests.tiny import make_tiny_model, tiny_tokenizer


def a_folder(folder: Path, *, vocab: int = 320, rows: int | None = None, **config: Any) -> Path:
    tokenizer = tiny_tokenizer(folder, vocab=vocab)
    about = {"vocab_size": rows or len(tokenizer), "eos_token_id": 2, "max_position_embeddings": 4096, **config}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def a_vocabulary(name: str, words: dict[int, str], *, rows: int, special: tuple[int, ...] = ()) -> Vocabulary:
    entries = {token: Entry(word.encode(), token in special) for token, word in words.items()}
    return Vocabulary(name, entries, rows, frozenset(special[:1]), 4096, "template", name, ())


def edit(folder: Path, change: Any) -> Path:
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def swap(content: dict[str, Any]) -> None:
    """Let two ids change places."""
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def test_padded_heads_are_the_same_tokenizer(tmp_path: Path) -> None:
    """Trap 9: QwQ-32B (152,064 rows) and Qwen2.5-1.5B (151,936) have one vocabulary."""
    verdict = compare(a_folder(tmp_path / "a", rows=384), a_folder(tmp_path / "b", rows=352))
    assert verdict.kl_possible and str(verdict) == "KL possible"
    assert any("padding" in note for note in verdict.notes)


def test_a_file_written_in_another_way_is_the_same_tokenizer(tmp_path: Path) -> None:
    """Merges were strings before they were pairs; a loader's own state says nothing of the ids."""
    one, other = a_folder(tmp_path / "a"), a_folder(tmp_path / "b")

    def older(content: dict[str, Any]) -> None:
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}

    edit(other, older)
    assert (one / "tokenizer.json").read_text() != (other / "tokenizer.json").read_text()
    assert compare(one, other).kl_possible
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)


def test_one_id_that_means_something_else_is_enough(tmp_path: Path) -> None:
    one, other = a_folder(tmp_path / "a"), a_folder(tmp_path / "b")

    verdict = compare(one, edit(other, swap))
    assert str(verdict).startswith("SFT only, because 2 of 320 ids mean something else: id ")
    assert "'a'" in verdict.why and "'b'" in verdict.why


def test_a_special_token_and_its_name_as_text_are_not_the_same(tmp_path: Path) -> None:
    one, other = a_folder(tmp_path / "a"), a_folder(tmp_path / "b")

    def plain(content: dict[str, Any]) -> None:
        for token in content["added_tokens"]:
            token["special"] = token["special"] and token["content"] != "<|User|>"

    verdict = compare(one, edit(other, plain))
    assert not verdict.kl_possible and "'<|User|>' (special), here '<|User|>'" in verdict.why


def test_another_tokenizer_is_sft_only(tmp_path: Path, shared_data: Path) -> None:
    verdict = compare(shared_data / "tokenizer_minimind", a_folder(tmp_path / "a"))
    assert str(verdict).startswith("SFT only, because")


def test_bytes_are_compared_not_spellings() -> None:
    """A byte-level piece and a SentencePiece one of the same bytes are the same token."""
    from distill.text.pairing import _bytes

    assert (
        _bytes("\u0120caf\u00c3\u00a9", {"ByteLevel"})
        == " caf\u00e9".encode()
        == _bytes("\u2581caf\u00e9", {"Metaspace"})
    )
    assert _bytes("\u010a", {"ByteLevel"}) == b"\n" == _bytes("<0x0A>", {"ByteFallback"})
    assert _bytes("<0x0A>", {"Metaspace"}) == b"<0x0A>"


# Pairs of real releases, in small: which ids stand for what, as their tokenizer files have it. DeepSeek-R1: 128,815
# entries of its own vocabulary. Llama 3: 128,256. Qwen2.5 ends at 151,664; Qwen3 and QwQ-32B add four, `<think>` and
# `</think>` last, in rows that are padding to Qwen2.5 (151,936 for 0.5B to 3B, 152,064 for 7B and up).
QWEN = {0: "!", 1: '"', 2: "# ", 10: "<|endoftext|>", 11: "<|im_start|>", 12: "<|im_end|>"}
QWEN3 = {**QWEN, 13: "<tool_response>", 14: "</tool_response>", 15: "<think>", 16: "</think>"}
LLAMA = {0: "!", 1: '"', 2: "$", 10: "<|begin_of_text|>", 11: "<|end_of_text|>", 12: "<|eot_id|>"}
R1 = {
    0: "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    1: "<\uff5cend\u2581of\u2581sentence\uff5c>",
    2: "!",
    14: "<think>",
}
SPECIAL = (10, 11, 12)

PAIRS = {
    "R1 into Qwen2.5": (R1, QWEN, False, "ids mean something else"),
    "R1 into Llama-3.1": (R1, LLAMA, False, "ids mean something else"),
    "Llama-3.3-70B into Llama-3.2-1B": (LLAMA, LLAMA, True, ""),
    "Llama into Qwen": (LLAMA, QWEN, False, "ids mean something else"),
    "Qwen3-32B into Qwen3-1.7B": (QWEN3, QWEN3, True, ""),
    "QwQ-32B into Qwen3-0.6B": (QWEN3, QWEN3, True, ""),
    "QwQ-32B into Qwen2.5-1.5B": (QWEN3, QWEN, False, "spare-ids"),
    "Qwen2.5-72B into Qwen3-0.6B": (QWEN, QWEN3, True, ""),
}


@pytest.mark.parametrize("name", PAIRS)
def test_known_pairs(name: str) -> None:
    theirs, own, possible, why = PAIRS[name]
    teacher = a_vocabulary("teacher", theirs, rows=24, special=SPECIAL if theirs is not R1 else (0, 1))
    student = a_vocabulary("student", own, rows=20, special=SPECIAL)
    verdict = judge(teacher, student)
    assert (verdict.kl_possible, why in verdict.why) == (possible, True)


def test_ids_beyond_the_students_head_cannot_be_matched() -> None:
    teacher = a_vocabulary("teacher", {0: "a", 1: "b", 9: "extra"}, rows=10)
    assert (
        "beyond the student's head of 4 rows" in judge(teacher, a_vocabulary("student", {0: "a", 1: "b"}, rows=4)).why
    )


def test_what_else_differs_is_noted(tmp_path: Path) -> None:
    teacher = read(a_folder(tmp_path / "a"))
    student = replace(teacher, eos=frozenset({3}), context=1024, template="another")
    notes = " / ".join(judge(teacher, student).notes)
    for word in ("stop at other tokens (<|end|> and <|User|>)", "context of 1,024", "templates differ"):
        assert word in notes


def test_the_verdict_follows_a_file_that_changes(tmp_path: Path) -> None:
    one, other = a_folder(tmp_path / "a"), a_folder(tmp_path / "b")
    assert compare(one, other).kl_possible
    edit(other, swap)
    assert not compare(one, other).kl_possible


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="no tokenizer.json"):
        read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DistillError, match="cannot be read as a tokenizer") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_weights_are_read(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", layers=1)
    (folder / "model.safetensors").unlink()
    assert compare(folder, folder).kl_possible


def test_real_vocabularies(shared_data: Path, tmp_path: Path) -> None:
    """GPT-2, Phi-3 and MiniMind into each other: SFT only. Phi-3 into one padded and spelt otherwise: KL possible."""
    from tests.gguf.test_real_vocabularies import byte_level, header, sentencepiece

    folders = {"minimind": shared_data / "tokenizer_minimind"}
    for name, make in (("gpt-2", byte_level), ("phi-3", sentencepiece)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        content = {"version": "1.0", **make(header(shared_data / "tokenizer_vocabs" / f"ggml-vocab-{name}.gguf"))}
        (folders[name] / "tokenizer.json").write_text(json.dumps(content))
        (folders[name] / "config.json").write_text(
            json.dumps({"vocab_size": max(content["model"]["vocab"].values()) + 1})
        )
    sizes = {name: len(read(folder).entries) for name, folder in folders.items()}
    assert sizes == {"minimind": 6400, "gpt-2": 50257, "phi-3": 32011}
    for teacher in folders:
        for student in folders:
            verdict = compare(folders[teacher], folders[student])
            assert verdict.kl_possible == (teacher == student), (teacher, student)
            assert "\n" not in str(verdict)
    padded = tmp_path / "padded"
    padded.mkdir()
    content = json.loads((folders["phi-3"] / "tokenizer.json").read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (padded / "tokenizer.json").write_text(json.dumps(content))
    (padded / "config.json").write_text(json.dumps({"vocab_size": 32128}))
    assert compare(folders["phi-3"], padded).kl_possible
