"""A model's revision reaches the place where its files are found, on every engine of local models."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core import models
from distill.core.plugins import Choice, ChoiceOf
from distill.engines import llamacpp, transformers
from distill.rollout import Teacher


@pytest.mark.parametrize("name", ["transformers", "llamacpp"])
def test_a_revision_is_resolved(name: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def resolve(model: str, revision: str | None = None) -> Path:
        asked.append((model, revision))
        return tiny_model

    for module in (models, transformers, llamacpp):
        monkeypatch.setattr(module, "resolve", resolve)
    engine: Choice = ChoiceOf("distill.engines", "engine")._validate(name)
    teacher = Teacher(engine, "owner/name", revision="abc123")

    built = teacher.build()
    try:
        assert built.identity == teacher.identity
    finally:
        built.close()
    assert set(asked) == {("owner/name", "abc123")}
