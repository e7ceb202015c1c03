"""The prompt that llama.cpp renders from an exported file is transformers', for templates of real models."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.export import proof
from distill.gguf.convert import convert
from tests.tiny import make_tiny_model

DATED = """{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
Today Date: {{ date_string }}
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- endfor %}"""
SHOUTED = "{%- for message in messages %}{{ message.content | upper }}{%- endfor %}"

UNLIKE = {
    "Qwen-QwQ-32B": (proof.UNSAID_THINKING,),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (proof.UNSAID_THINKING,),
}
"""Templates whose rendering differs in a known way; all others are equal, byte for byte."""


def chat_check(tmp_path: Path, template: str) -> proof.Check:
    folder = make_tiny_model(tmp_path / "model", template=template)
    file = tmp_path / "model.gguf"
    checks = proof.opens(file, folder, convert(folder, file, "f16"), tmp_path / "log")
    return next(check for check in checks if check.name == "chat")


@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B", "Qwen-QwQ-32B", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "google-gemma-2-2b-it", "ibm-granite-granite-3.3-2B-Instruct",
        "llama-cpp-deepseek-r1", "meta-llama-Llama-3.2-3B-Instruct", "microsoft-Phi-3.5-mini-instruct",
    ],
)  # fmt: skip
def test_a_real_template_renders_the_same(shared_data: Path, tmp_path: Path, name: str):
    check = chat_check(tmp_path, (shared_data / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))

    assert check.missed is None
    assert check.figures["chats"] >= 6
    assert check.notes == UNLIKE.get(name, ())


def test_a_template_that_writes_the_date_is_noted(tmp_path: Path):
    check = chat_check(tmp_path, DATED)

    assert (check.missed, check.notes) == (None, (proof.DATED,))


def test_a_difference_of_any_other_kind_is_a_fault(tmp_path: Path):
    """The file's template is not the folder's: what transformers renders is no longer what the file renders."""
    folder = make_tiny_model(tmp_path / "model", template=SHOUTED)
    file = tmp_path / "model.gguf"
    plan = convert(folder, file, "f16")
    (folder / "chat_template.jinja").write_text(SHOUTED.replace("upper", "lower"), encoding="utf-8")

    check = next(c for c in proof.opens(file, folder, plan, tmp_path / "log") if c.name == "chat")

    assert check.missed is not None
    assert "renders as 'WHAT IS 17*23?'" in check.missed
