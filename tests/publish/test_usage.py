"""The card's example for transformers does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill.core.models import resolve
from distill.publish import model_card, release
from tests.publish.card_run import CONFIG, card_run, names_of


def test_the_example_for_transformers_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = release.gather(card_run().write(tmp_path / "run"), None, None)
    card = model_card.render(here, (), CONFIG, ("model", "gguf"), names_of(here))

    block = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    block = block.replace('"you/small-r1"', repr(str(resolve("embedded-student"))))
    exec(block.replace("max_new_tokens=512", "max_new_tokens=3"), {})  # our own text, from the card of a fixed run

    assert capsys.readouterr().out.strip()
