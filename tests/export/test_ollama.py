"""The Modelfile: what it says of a real template is what the template renders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distill import embedded
from distill.core.records import Message
from distill.export import ollama
from distill.text.chat import apply_template, template_arguments
from tests.tiny import tiny_tokenizer


def tokenizer_with(folder: Path, template: str) -> Any:
    return tiny_tokenizer(folder, template=template)


def run_go(template: str, messages: list[Message]) -> str:
    """Ollama's template on a conversation: the few forms that `go_template` writes, and nothing else."""
    system = next((message.content for message in messages if message.role == "system"), "")
    head = re.fullmatch(
        r"\{\{ if \.System \}\}(.*?)\{\{ \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}\{\{ range \.Messages \}\}"
        r'\{\{ if eq \.Role "user" \}\}(.*?)\{\{ \.Content \}\}(.*?)\{\{ else if eq \.Role "assistant" \}\}'
        r"(.*?)\{\{ \.Content \}\}(.*?)\{\{ end \}\}\{\{ end \}\}(.*)",
        template,
        flags=re.S,
    )
    assert head is not None
    before, after, start, before_u, after_u, before_a, after_a, generation = (
        part.replace('{{ "{{" }}', "{{") for part in head.groups()
    )
    said = f"{before}{system}{after}" if system else start
    for message in messages:
        if message.role == "user":
            said += f"{before_u}{message.content}{after_u}"
        elif message.role == "assistant":
            said += f"{before_a}{message.content}{after_a}"
    return said + generation


CHAT = [Message("user", "1+1?"), Message("assistant", "2"), Message("user", "And 2+2?")]


@pytest.mark.parametrize("system", [[], [Message("system", "Be brief.")]])
@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B", "Qwen-QwQ-32B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "llama-cpp-deepseek-r1", "meta-llama-Llama-3.2-3B-Instruct",
        "microsoft-Phi-3.5-mini-instruct",
    ],
)  # fmt: skip
def test_a_real_template_says_the_same_in_go(shared_data: Path, tmp_path: Path, name: str, system: list[Message]):
    template = (shared_data / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = tokenizer_with(tmp_path, template)
    turns = ollama.turns_of(tokenizer)
    assert turns is not None
    said = run_go(ollama.go_template(turns, ""), [*system, *CHAT])

    assert said == apply_template(tokenizer, [*system, *CHAT], **template_arguments(tokenizer, True))


def test_a_template_that_rewrites_its_turns_is_left_out_and_said(tmp_path: Path):
    shouted = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}{% endfor %}<assistant>"
    counted = "{% for m in messages %}<{{ m.role }} {{ loop.index }}>{{ m.content }}{% endfor %}<assistant>"
    for number, template in enumerate((shouted, counted)):
        tokenizer = tokenizer_with(tmp_path / str(number), template)

        text, note = ollama.modelfile("a.gguf", tokenizer, adds_bos=False, stops=[], sampling={}, context=None)

        assert "TEMPLATE" not in text
        assert note is not None and "llama.cpp" in note


def test_the_whole_file(tmp_path: Path):
    tokenizer = tokenizer_with(tmp_path, embedded.CHAT_TEMPLATE)
    sampling = {"temperature": 0.6, "top_p": 0.95, "eos_token_id": 3}

    text, note = ollama.modelfile(
        "student-q4_k_m.gguf", tokenizer, adds_bos=True, stops=[embedded.END, 'a"b'], sampling=sampling, context=512
    )

    assert note is None
    template = re.search(r'TEMPLATE """(.*?)"""', text, flags=re.S)
    assert template is not None and embedded.BEGIN not in template[1]  # the runtime writes it
    assert run_go(template[1], CHAT) == apply_template(tokenizer, CHAT).removeprefix(embedded.BEGIN)
    assert text.replace(template[0], "") == (
        f"FROM ./student-q4_k_m.gguf\n\n\n\nPARAMETER temperature 0.6\nPARAMETER top_p 0.95\n"
        f'PARAMETER stop "{embedded.END}"\nPARAMETER stop "a\\"b"\nPARAMETER num_ctx 512\n'
    )


def test_braces_in_a_template_stay_text(tmp_path: Path):
    braces = "{% for m in messages %}{{ '{{' }}{{ m.role }}|{{ m.content }}|{% endfor %}assistant|"
    turns = ollama.turns_of(tokenizer_with(tmp_path, braces))

    assert turns is not None
    assert run_go(ollama.go_template(turns, ""), CHAT) == "{{user|1+1?|{{assistant|2|{{user|And 2+2?|assistant|"
