"""What must not leave the machine is found, and settings are made fit for others."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.publish import secrets

TOKENS = {
    "Hugging Face token": "hf_" + "AbCdEfGhIj" * 4,
    "OpenAI or Anthropic key": "sk-proj-" + "a1B2" * 8,
    "AWS access key": "AKIA" + "ABCDEFGH12345678",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "GitHub token": "ghp_" + "x" * 36,
    "URL with a password": "https://me:secret@example.org/v1",
}
PLACES = {
    "address of a private server": [
        "http://10.1.2.3:8000/v1", "http://gpu-box:8000", "https://llm.corp/v1", "http://[fd00::1]/v1",
        "http://vllm.default.svc.cluster.local/v1", "ws://192.168.0.4", "file:///etc/passwd", "http://localhost:8000/v1",
    ],
    "path of a machine": [
        "/home/ann/runs/x", "/Users/ann/x.parquet", "~/models/qwen", "C:\\Users\\ann\\x", "/mnt/data/x", "/tmp/x",
    ],
}  # fmt: skip
PLANTED = sorted({*TOKENS.values(), *(text for texts in PLACES.values() for text in texts)})
FINE = [
    "https://huggingface.co/Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "1/2 and 3/4", "a/b/home/c", "https://example.org/home/x",
    "the ratio is 7:3", "and/or", "</think>", "https://spdx.org/licenses/MIT.html", "x ~ y", "f(x) = /2", "10.1.2.3",
    "hf_short", "<https://creativecommons.org/licenses/by/4.0/legalcode>",
]  # fmt: skip


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_are_found_and_left_out(kind: str) -> None:
    assert secrets.private(f"before {TOKENS[kind]} after") == kind
    assert TOKENS[kind] not in json.dumps(secrets.shareable({"a": [f"x {TOKENS[kind]}"]}))


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PLACES.items() for text in texts])
def test_places_are_found_and_cut(kind: str, text: str) -> None:
    assert secrets.private(f"see {text} there") == kind
    assert secrets.private(str(secrets.shareable(f"see {text} there"))) is None
    assert secrets.private(str(secrets.shareable(text))) is None


@pytest.mark.parametrize("text", FINE)
def test_what_is_public_stays(text: str) -> None:
    assert secrets.private(text) is None
    assert secrets.shareable(text) == text


def test_a_path_is_cut_to_its_last_part() -> None:
    assert secrets.shareable({"path": "/home/ann/gsm8k.jsonl", "n": 3, "none": None}) == {
        "path": "gsm8k.jsonl", "n": 3, "none": None,
    }  # fmt: skip
    assert secrets.model_name("/home/ann/models/qwen") == "qwen"
    assert secrets.model_name("./student") == "student"
    assert secrets.model_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert secrets.model_name("embedded-student") == "embedded-student"


@given(st.recursive(st.none() | st.text(max_size=40) | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_what_was_made_shareable_stays_as_it_is(value: object) -> None:
    once = secrets.shareable(value)
    assert secrets.shareable(once) == once


@given(st.text(max_size=20), st.sampled_from(PLANTED), st.text(max_size=20))
def test_nothing_private_is_left_in_what_is_shareable(before: str, planted: str, after: str) -> None:
    assert secrets.private(secrets.shareable(f"{before} {planted} {after}")) is None
