"""Repetition: real loops are found, real thinking is not, in linear time."""

from __future__ import annotations

import gzip
import json
import random
import time
from pathlib import Path

import pytest

from distill.text.loops import repeated_share


def test_prose_repeats_nothing_and_a_loop_all():
    words = [f"word{n}" for n in range(300)]

    assert repeated_share(" ".join(words)) == 0.0
    assert repeated_share(" ".join(words[:20] * 50)) > 0.95
    assert repeated_share("") == 0.0


def test_a_short_trace_of_steps_does_not_loop():
    assert repeated_share("17*20=340\n17*3=51\n340+51=391\n\nAnswer: \\boxed{391}") == 0.0


def test_a_loop_at_the_end_is_found_in_the_tail():
    rng = random.Random(0)
    text = " ".join(str(rng.random()) for _ in range(3000)) + " wait, let me check that again." * 150

    assert repeated_share(text) < 0.6
    assert repeated_share(text, tail=600) > 0.9


@pytest.mark.parametrize("text", ["哈" * 5000, "a" * 20_000, "hm hm " * 5000, ".\n\n" * 5000])
def test_loops_without_words_are_found(text: str):
    assert repeated_share(text) > 0.9


def test_100k_tokens_take_about_a_second():
    rng = random.Random(0)
    text = " ".join(rng.choice(["a", "b", "7", "+", "wait"]) for _ in range(100_000))
    start_s = time.process_time()

    repeated_share(text)

    assert time.process_time() - start_s < 3.0


def test_all_labelled_loops_and_no_labelled_negative(shared_data: Path):
    folder = shared_data / "thinking_traces"
    labels = [json.loads(line) for line in (folder / "loop_labels.jsonl").read_text().splitlines()]
    texts = {}
    for name in {label["file"] for label in labels}:
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                texts[name, row["prompt_id"], row["sample"]] = row["thinking"] or row["output"]
    found = {
        (label["file"], label["prompt_id"], label["sample"]): (
            repeated_share(text := texts[label["file"], label["prompt_id"], label["sample"]]) > 0.6
            or repeated_share(text, tail=600) > 0.75
        )
        for label in labels
    }

    assert found == {(label["file"], label["prompt_id"], label["sample"]): label["loop"] for label in labels}
