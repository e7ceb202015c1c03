"""The student's text side: other templates, think tags as tokens, and one folder that decides all ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.core.errors import DistillError
from distill.text.chat import PROBES, check_tokenizer
from distill.text.pairing import compare
from students import settings
from students.text_side import adopt_tokens, prepare, refusal
from tests.templates import shared_templates
from tests.tiny import make_tiny_model

TAGS = ("<think>", "</think>")
PLAIN = (
    "{% for m in messages %}{{ '<|User|>' if m.role == 'user' else '<|Assistant|>' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}"
)


def without_tags(folder: Path, *, spare: int = 0, **model: Any) -> Path:
    """A tiny model whose tokenizer has no think tokens, but `spare` reserved ones (as Llama 3's)."""
    make_tiny_model(folder, layers=1, **{"padded_vocab": 330, **model})
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in TAGS]
    vocab = content["model"]["vocab"]
    for place, tag in enumerate(TAGS):  # ids must stay dense, so what they were called becomes an odd word
        vocab[f"odd{place}"] = vocab.pop(tag)
    top = max(*vocab.values(), *(token["id"] for token in content["added_tokens"]))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for place in range(spare):
        name = f"<|reserved_special_token_{place}|>"
        content["added_tokens"].append({"id": top + 1 + place, "content": name, **flags, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def teacher(folder: Path) -> Any:
    """What `prepare` reads of a teacher's section."""
    return SimpleNamespace(model=str(folder), revision=None, served=False)


def config(folder: Path, **given: Any) -> settings.Config:
    return settings.Config(model=str(folder), device="cpu", **given)


def test_nothing_to_change_is_the_bases_own_folder(tiny_model: Path, tmp_path: Path) -> None:
    side = prepare(config(tiny_model), tiny_model, None, tmp_path / "text", thinks=True)
    assert side.folder == tiny_model and not (tmp_path / "text").exists()
    assert not side.new_tokens and side.template == "the student's own" and "5 and 6" in side.think_tokens


@pytest.mark.parametrize("how", ["text", "spare-ids", "add"])
@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
def test_think_tokens(tmp_path: Path, how: str, spare: int, architecture: str) -> None:
    """A folder of type qwen2 too, whose tokenizer transformers makes in its own way."""
    base = without_tags(tmp_path / "m", spare=spare, architecture=architecture)
    before = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab_size()

    side = prepare(config(base, think_tokens=how), base, None, tmp_path / "text", thinks=True)

    tokenizer = side.text.tokenizer
    ids = [tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS]
    assert [len(each) for each in ids] == ([1, 1] if how != "text" else [len(each) for each in ids])
    expected = {"text": set(), "add": {before, before + 1}}
    expected["spare-ids"] = {before - 3, before - 2} if spare else expected["add"]
    assert set(side.new_tokens) == expected[how]
    assert all(len(pieces) > 1 for pieces in side.new_tokens.values())
    assert side.text.close_id == (ids[1][0] if how != "text" else None)
    assert not any(token in side.text.control_ids for token in side.new_tokens)
    # one file decides: transformers and the tokenizers library agree on every probe, tags inside words too
    check_tokenizer(AutoTokenizer.from_pretrained(side.folder), side.folder)
    plain = Tokenizer.from_file(str(side.folder / "tokenizer.json"))
    for probe in (*PROBES, "a<think>\n b \n</think>\n\nc"):
        got = tokenizer(probe, add_special_tokens=False)["input_ids"]
        assert got == plain.encode(probe, add_special_tokens=False).ids
    if spare and how == "spare-ids":
        assert plain.token_to_id("<|reserved_special_token_0|>") is None
        assert plain.token_to_id("<|reserved_special_token_2|>") == before - 1


def test_a_spare_token_that_is_a_word_of_the_vocabulary_is_renamed_there(tmp_path: Path) -> None:
    base = without_tags(tmp_path / "m", spare=2)
    content = json.loads((base / "tokenizer.json").read_text())
    for token in content["added_tokens"][-2:]:
        content["model"]["vocab"][token["content"]] = token["id"]
    (base / "tokenizer.json").write_text(json.dumps(content))
    side = prepare(config(base, think_tokens="spare-ids"), base, None, tmp_path / "text", thinks=True)
    assert len(AutoTokenizer.from_pretrained(side.folder)("</think>", add_special_tokens=False)["input_ids"]) == 1
    assert "reserved" not in (side.folder / "tokenizer.json").read_text()


def test_spare_ids_take_the_teachers_own_where_they_are_free(tmp_path: Path) -> None:
    """QwQ-32B into Qwen2.5: its four added tokens are padding rows of the student; named, logits can be matched."""
    base = without_tags(tmp_path / "m")
    taught = shutil.copytree(base, tmp_path / "teacher")
    content = json.loads((taught / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    top = Tokenizer.from_file(str(taught / "tokenizer.json")).get_vocab_size()
    names = ("<tool_response>", "</tool_response>", *TAGS)
    content["added_tokens"] += [{"id": top + n, "content": name, **flags} for n, name in enumerate(names)]
    (taught / "tokenizer.json").write_text(json.dumps(content))
    assert "spare-ids" in compare(taught, base).why

    side = prepare(config(base, think_tokens="spare-ids"), base, teacher(taught), tmp_path / "text", thinks=True)

    assert side.text.tokenizer.convert_tokens_to_ids(list(names)) == list(range(top, top + 4))
    assert compare(taught, side.folder).kl_possible
    assert side.text.fingerprint in side.text.same_tokenizers and len(side.text.same_tokenizers) in (1, 2)
    plain = prepare(config(base), base, teacher(taught), tmp_path / "plain", thinks=True)
    assert plain.text.same_tokenizers == {plain.text.fingerprint}


def test_no_spare_ids_is_refused(tmp_path: Path) -> None:
    base = without_tags(tmp_path / "m", padded_vocab=None)
    rows = json.loads((base / "config.json").read_text())["vocab_size"]
    assert rows == Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab_size()
    with pytest.raises(DistillError, match="needs 2 spare ids and finds 0; use `add`"):
        prepare(config(base, think_tokens="spare-ids"), base, None, tmp_path / "text", thinks=True)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_start_as_the_mean_of_their_text(tmp_path: Path, tied: bool) -> None:
    base = without_tags(tmp_path / "m", padded_vocab=None, tied=tied)
    side = prepare(config(base, think_tokens="add"), base, None, tmp_path / "text", thinks=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    rows = model.get_input_embeddings().weight.shape[0]
    before = [end.weight.detach().clone() for end in (model.get_input_embeddings(), model.get_output_embeddings())]

    adopt_tokens(model, side)

    assert model.config.vocab_size == side.text.vocab_size == rows + 2
    for end, old_VH in zip((model.get_input_embeddings(), model.get_output_embeddings()), before, strict=True):
        assert torch.equal(end.weight[:rows], old_VH)
        for token, pieces in side.new_tokens.items():
            torch.testing.assert_close(end.weight[token], old_VH[list(pieces)].mean(0))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert json.loads((side.folder / "config.json").read_text())["vocab_size"] == rows + 2


def test_the_template_of_a_file_or_of_the_teacher(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(PLAIN)
    mine = prepare(
        config(tiny_model, template=str(tmp_path / "mine.jinja")), tiny_model, None, tmp_path / "a", thinks=True
    )
    assert mine.text.tokenizer.chat_template == PLAIN and mine.template == "mine.jinja"
    taught = make_tiny_model(tmp_path / "teacher", layers=1, template=PLAIN)
    theirs = prepare(config(tiny_model, template="teacher"), tiny_model, teacher(taught), tmp_path / "b", thinks=True)
    assert theirs.text.tokenizer.chat_template == PLAIN and theirs.template == "the teacher's"
    assert (theirs.folder / "chat_template.jinja").read_text() == PLAIN
    assert "chat_template" not in json.loads((theirs.folder / "tokenizer_config.json").read_text())
    with pytest.raises(DistillError, match="not known here"):
        prepare(config(tiny_model, template="teacher"), tiny_model, None, tmp_path / "c", thinks=True)
    asked = config(tiny_model, template="teacher")
    assert "needs the section `teacher:`" in (refusal({"student": asked}) or "")
    served = SimpleNamespace(served=True, engine=SimpleNamespace(config=SimpleNamespace()))
    assert "save it as a file" in (refusal({"student": asked, "teacher": served}) or "")
    assert refusal({"student": asked, "teacher": teacher(taught)}) is None
    with pytest.raises(ValidationError, match="there is no file nowhere.jinja"):
        config(tiny_model, template="nowhere.jinja")


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize(
    "name",
    ["Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "Qwen-Qwen3-0.6B", "meta-llama-Llama-3.2-3B-Instruct"],
)
def test_a_prompt_without_arguments_is_the_trained_one(
    shared_data: Path, tmp_path: Path, name: str, thinks: bool
) -> None:
    """Trap 3: templates that close the thinking by default, or write the day's date, are written as they were used."""
    base = make_tiny_model(tmp_path / "m", layers=1, template=shared_templates(shared_data)[name])
    side = prepare(config(base), base, None, tmp_path / "text", thinks=thinks)
    turns = [{"role": "user", "content": "What is 6*7?"}]
    written = AutoTokenizer.from_pretrained(side.folder)
    given = written.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    asked = side.text.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False, enable_thinking=thinks
    )
    assert given == asked
    if thinks:
        assert given.count("<think>") > given.count("</think>") or "<think>" not in given
    assert ("26 Jul 2024" in given) == ("Llama" in name)
    if name == "Qwen-QwQ-32B" and thinks:  # seen to matter: its own default closes the block
        own = AutoTokenizer.from_pretrained(base).apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert "</think>" in own and "made to think by default" in side.template


def test_older_tokenizer_files_say_the_same(tmp_path: Path) -> None:
    """transformers 4 repeats every added token in tokenizer_config.json and lists the special ones by name: a renamed
    one that stayed in a list would come back as a new token at the end.
    """
    base = without_tags(tmp_path / "m", spare=3)
    content = json.loads((base / "tokenizer.json").read_text())
    names = [token["content"] for token in content["added_tokens"] if "reserved" in token["content"]]
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    about = json.loads((base / "tokenizer_config.json").read_text())
    about.pop("extra_special_tokens", None)
    about["added_tokens_decoder"] = {
        str(token["id"]): {flag: token[flag] for flag in flags} for token in content["added_tokens"]
    }
    about["additional_special_tokens"] = names
    about["chat_template"] = PLAIN
    (base / "chat_template.jinja").unlink()
    (base / "tokenizer_config.json").write_text(json.dumps(about))
    (base / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": names}))
    (base / "added_tokens.json").write_text(json.dumps({names[0]: 1}))

    side = prepare(config(base, think_tokens="spare-ids"), base, None, tmp_path / "text", thinks=True)

    tokenizer = AutoTokenizer.from_pretrained(side.folder)
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(base))
    assert [tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS] == [[n] for n in side.new_tokens]
    written = "".join(path.read_text() for path in side.folder.glob("*.json"))
    assert names[0] not in written and names[1] not in written and names[2] in written
    assert tokenizer.chat_template == PLAIN
    assert tokenizer.decode(list(side.new_tokens), skip_special_tokens=True) == "".join(TAGS)
