"""Cards say what the run holds, in metadata that the Hub's own client reads back, and look as they should."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from distill.core.files import read_json, write_json
from distill.core.records import Message
from distill.publish import dataset_card, markdown, model_card, refusals, release, secrets
from distill.publish.refusals import Refusal
from distill.publish.release import Release
from distill.publish.settings import Config, What
from tests.publish.card_run import CONFIG, CardRun, add_task, card_run, names_of, problem, proof

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTILE = "</td><script>alert(1)</script> | *x* [y](https://evil.example/) {{ 1337*1337 }}\n---\n# Head `\u202egnp"
PLAIN = MarkdownIt("commonmark", {"html": True}).enable("table")
STYLE = "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:4px}body{max-width:1000px;margin:1em auto}"


def gathered(tmp_path: Path, made: CardRun | None = None) -> Release:
    return release.gather((made or card_run()).write(tmp_path / "run"), None, None)


def model_text(
    here: Release, allowed: Sequence[Refusal] = (), config: Config = CONFIG, parts: Sequence[What] = ("model", "gguf")
) -> str:
    return model_card.render(here, allowed, config, parts, names_of(here))


def body_of(card: str) -> str:
    return card.split("---\n", 2)[2]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return gathered(tmp_path_factory.mktemp("plain"))


# -- golden files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_card_of_a_fixed_run(kind: str, plain: Release, request: pytest.FixtureRequest) -> None:
    """Every word of a card. Hashes are left out: they change with the version of the Parquet writer."""
    card = model_text(plain) if kind == "model" else dataset_card.render(plain, (), CONFIG)
    card = re.sub(r"`[0-9a-f]{12}`", "`HASH`", card)
    golden = GOLDEN / f"{kind}_card.md"
    if request.config.getoption("--update-golden"):
        golden.write_text(card, encoding="utf-8")
    assert card == golden.read_text(encoding="utf-8")


# -- metadata ------------------------------------------------------------------------------------------------------


def test_the_model_cards_metadata_is_what_the_hubs_client_reads(plain: Release) -> None:
    card = ModelCard(model_text(plain))

    assert card.data.license == "apache-2.0"
    assert (card.data.base_model, card.data["base_model_relation"]) == ("Qwen/Qwen3-0.6B-Base", "finetune")
    assert card.data.datasets == ["you/small-r1-traces"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    results = {result.metric_name: result for result in card.data.eval_results}
    assert list(results) == ["pass@1", "pass@1, greedy, gguf-q4_k_m", "pass@1, greedy, gguf-q8_0"]
    student = results["pass@1"]
    assert (student.metric_type, student.metric_value) == ("accuracy", 75.0)
    assert (student.metric_args["low"], student.metric_args["high"]) == (40.93, 92.85)
    assert student.metric_args["temperature"] == 0.6
    assert (student.task_type, student.dataset_split) == ("text-generation", "test")
    assert str(card) == model_text(plain)  # what the client would write is what was written


def test_the_dataset_cards_metadata_is_what_the_hubs_client_reads(plain: Release) -> None:
    card = DatasetCard(dataset_card.render(plain, (), CONFIG.model_copy(update={"rejected": True})))

    assert (card.data.license, card.data.size_categories) == ("apache-2.0", ["n<1K"])
    assert [one["config_name"] for one in card.data["configs"]] == ["traces", "rejected"]
    assert card.data["configs"][0]["data_files"] == [{"split": "train", "path": "data/traces/*.parquet"}]


@pytest.mark.parametrize(
    ("parts", "config", "said"),
    [
        (("gguf",), {"gguf_repo": "you/small-gguf"}, ("you/small-r1", "quantized", "gguf")),
        (("gguf",), {"what": ["gguf"]}, ("Qwen/Qwen3-0.6B-Base", "finetune", "gguf")),
        (("adapter",), {"adapter_repo": "you/small-lora"}, ("Qwen/Qwen3-0.6B-Base", "adapter", "peft")),
    ],
)
def test_what_stands_on_what(
    tmp_path: Path, parts: Sequence[What], config: dict[str, Any], said: tuple[str, ...]
) -> None:
    made = card_run()
    made.proof.append(proof("safetensors-adapter", "safetensors-adapter/student", 9_000_000, 32.0))
    card = ModelCard(model_text(gathered(tmp_path, made), config=CONFIG.model_copy(update=config), parts=parts))

    assert (card.data.base_model, card.data["base_model_relation"], card.data.library_name) == said
    if parts == ("adapter",):
        assert "PeftModel.from_pretrained(base, name)" in card.text


def test_a_base_that_is_no_model_of_the_hub_is_no_link(tmp_path: Path) -> None:
    made = card_run()
    for stage in ("train", "export"):
        made.settings[stage]["student"] = {"model": "embedded-student", "revision": None, "adapter": None}
    card = ModelCard(model_text(gathered(tmp_path, made)))

    assert card.data.base_model is None
    assert "huggingface.co/embedded" not in card.text and "`embedded-student` (which comes with distill)" in card.text


def test_an_unknown_licence_is_other_and_none_is_unknown(plain: Release, tmp_path: Path) -> None:
    own = ModelCard(model_text(plain, config=CONFIG.model_copy(update={"licence": "my-own: x\n1.0"})))
    assert (own.data.license, own.data.license_name) == ("other", "my-own: x 1.0")
    made = card_run()
    made.problems = [replace(one, licence="") for one in made.problems]
    none = ModelCard(model_text(gathered(tmp_path, made), config=CONFIG.model_copy(update={"licence": None})))
    assert none.data.license == "unknown"


@given(st.text(max_size=30))
def test_no_name_breaks_out_of_the_metadata(name: str) -> None:
    """A task's or a run's name can be any text: it comes back as it went in, in one line."""
    line = markdown.one_line(name) or "x"
    result = EvalResult("t", "d", line, "accuracy", 1.0, metric_name=line)
    head = ModelCardData(model_name="m", eval_results=[result], license_name=line).to_yaml()

    card = ModelCard(f"---\n{head}\n---\n\nbody")

    assert card.text == "\nbody"
    assert (card.data.eval_results[0].dataset_name, card.data.license_name) == (line, line)


# -- what is said --------------------------------------------------------------------------------------------------


def test_what_was_overridden_is_told_on_both_cards(plain: Release) -> None:
    allowed = [
        Refusal("unproved", "gguf-q8_0: tier 2 did not run"),
        Refusal("personal-data", "e-mail address in 1 traces"),
    ]
    for card in (model_text(plain, allowed), dataset_card.render(plain, allowed, CONFIG)):
        assert "> - `unproved`: gguf-q8_0: tier 2 did not run" in card
        assert "> - `personal-data`: e-mail address in 1 traces" in card
    assert "Published although" not in model_text(plain)


def test_weak_points_are_told(tmp_path: Path) -> None:
    made = card_run()
    made.proof[1]["missed"] = ["answers: 20.0% correct where the student has 75.0%; the bound is 5 points"]
    made.samples[1] = replace(made.samples[1], finish_reason="length")
    made.verdicts[2] = replace(made.verdicts[2], label_source="majority", label_support=0.75)
    made.missed["evaluate"] = "evaluate: over 1% of answers could not be counted (/home/ann/x)"
    assert made.results is not None
    student = made.results["tasks"][0]["models"][1]
    student["outcomes"] = {**student["outcomes"], "truncated": 2}
    student["loops"] = 1
    text = model_text(gathered(tmp_path, made))

    assert "no: answers: 20.0% correct" in text
    assert "25.0% (2) of its answers were cut at the limit; they count as wrong" in text
    assert "12.5% (1) of its answers repeat themselves" in text
    assert "33.3% (1) of the training traces were graded against a vote" in text
    assert "33.3% (1) of the training traces are cut or unfinished" in text
    assert "could not be counted (x)" in text
    assert "It was trained once" in text


def test_every_task_and_what_is_not_measured_is_told(tmp_path: Path) -> None:
    made = card_run()
    items = [problem(f"Question {n}?", "6", "test") for n in range(4)]
    made.evaluated = items
    add_task(made, "gsm8k", items, {"student": 3, "base": 2}, licence="MIT")
    text = model_text(gathered(tmp_path, made))

    assert "### gsm8k" in text and "| student − base |" in text
    assert "What was measured is its own test problems and gsm8k, and nothing else" in text
    assert "- Task `gsm8k`: 4 problems against 3 training questions; 0 are copies" in text
    assert "Question 1?" not in text  # texts of a benchmark are not published


def test_a_student_without_thinking_is_run_without_it(tmp_path: Path) -> None:
    made = card_run()
    made.training["target"] = "answer"
    text = model_text(gathered(tmp_path, made))

    assert "return_dict=True, enable_thinking=False" in text and "It thinks between" not in text
    assert 'chat_template_kwargs={"enable_thinking": False}' in text


def test_a_card_without_any_results_or_traces(tmp_path: Path) -> None:
    made = card_run()
    made.stages = ("train", "export")
    text = model_text(gathered(tmp_path, made))

    assert "Nothing was measured" in text and "model-index" not in text.partition("---\n\n")[0].replace("eval", "")


def test_the_examples_are_python(plain: Release) -> None:
    blocks = re.findall(r"```python\n(.*?)```", model_text(plain) + dataset_card.render(plain, (), CONFIG), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        ast.parse(block)


def test_paths_and_servers_of_this_machine_stay_here(tmp_path: Path) -> None:
    made = card_run()
    for stage in ("train", "export"):
        made.settings[stage]["student"] = {"model": "/home/ann/models/qwen", "revision": None, "adapter": None}
    made.settings["sample"]["teacher"] = {
        "model": "/mnt/models/r1", "revision": None, "engine": {"engine": "openai", "base_url": "http://gpu-box:8000/v1"},
    }  # fmt: skip
    made.problems = [replace(one, source="/home/ann/problems.jsonl") for one in made.problems]
    made.samples = [replace(one, model_name="/mnt/models/r1") for one in made.samples]
    assert made.results is not None
    made.results["tasks"][0]["models"][0]["name"] = "/home/ann/models/qwen"
    here = gathered(tmp_path, made)
    found = refusals.find(here, CONFIG)

    for card in (model_text(here, found), dataset_card.render(here, found, CONFIG)):
        assert secrets.private(card) is None
        assert "ann" not in card.replace("answers", "").replace("cannot", "") and "gpu-box" not in card


def test_the_other_seeds_are_told(tmp_path: Path) -> None:
    run = card_run().write(tmp_path / "run")
    index = read_json(run / "run.json")
    index["arms"]["main"]["1"] = index["arms"]["main"]["0"]
    write_json(run / "run.json", index)
    text = model_text(release.gather(run, "main", 1))

    assert "This is seed 1 of the 2 that were trained; seed 0: 75.0% [40.9, 92.9], seed 1: 75.0%" in text
    assert "It was trained once" not in text


def test_what_the_guard_found_is_told_and_looked_for(tmp_path: Path) -> None:
    made = card_run()
    items = [problem("What is 3 plus 3?", "6", "test"), problem("Where is the moon in the day?", "x", "test")]
    made.evaluated = items
    add_task(made, "steps", items, {"base": 2, "student": 1})
    assert made.results is not None
    task = made.results["tasks"].pop()
    difference = next(pair["difference"] for pair in task["pairs"])
    guarded = {**task, "difference": difference, "verdict": "forgetting shown", "missed": True}
    made.results["guard"] = {"points": 2.0, "tasks": [guarded]}
    here = gathered(tmp_path, made)
    text = model_text(here)

    assert "Guard against forgetting, steps: -50.0 points" in text and "forgetting shown; a loss of 2 points" in text
    assert "What was measured is its own test problems and steps, and nothing else" in text
    assert [refusal.name for refusal in refusals.find(here, CONFIG)] == ["contaminated"]


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ((6, 6), "`student-q4_k_m.gguf` is the smallest whose loss is within the noise"),
        ((1, 6), "`student-q8_0.gguf` is the smallest whose loss is within the noise"),
        ((0, 0), "too few right answers were drawn to tell the files apart"),
    ],
)
def test_the_file_that_is_advised(tmp_path: Path, right: tuple[int, int], said: str) -> None:
    made = card_run()
    made.proof[2] = proof("gguf-q4_k_m", "gguf-q4_k_m/student-q4_k_m.gguf", 400_000_000, 5.3, kl=0.01, right=right)
    if right == (0, 0):
        made.proof[1] = proof("gguf-q8_0", "gguf-q8_0/student-q8_0.gguf", 640_000_000, 8.5, kl=1e-4, right=right)
    assert f"**Which one:** {said}" in model_text(gathered(tmp_path, made))


# -- hostile text, and how it looks ---------------------------------------------------------------------------------


def hostile() -> CardRun:
    """The same run with hostile text wherever a person, a server or a data set could have put it."""
    made = card_run()
    made.name = HOSTILE
    made.problems = [replace(one, source=HOSTILE, licence=HOSTILE, domain=HOSTILE) for one in made.problems]
    made.samples = [replace(one, model_name=HOSTILE, answer=HOSTILE) for one in made.samples]
    made.problems[0] = replace(made.problems[0], messages=(Message("user", HOSTILE),))
    made.verdicts = [replace(one, verifier=HOSTILE) for one in made.verdicts]
    for stage in ("train", "export"):
        made.settings[stage]["student"] = {"model": f"o/{HOSTILE}", "revision": HOSTILE, "adapter": {"name": HOSTILE}}
    made.settings["sample"]["teacher"] = {"model": HOSTILE, "revision": HOSTILE, "engine": {"engine": "openai"}}
    family = {"distillation": "unknown", "licence": HOSTILE, "notice": HOSTILE, "note": HOSTILE}
    made.counts["sample"] |= {"family": family, "asked_as": {"None": {"system": HOSTILE, "instruction": HOSTILE}}}
    made.counts["filter"]["steps"][1] |= {"filter": HOSTILE, "reasons": {HOSTILE: 1}}
    made.counts["export"] = {"base_licence": HOSTILE}
    made.missed = {"train": HOSTILE}
    made.proof[1]["missed"] = [HOSTILE]
    items = [problem(HOSTILE, "6", "test")]
    made.evaluated = items
    add_task(made, HOSTILE, items, {"student": 1, HOSTILE: 0}, licence=HOSTILE, verifier={"verifier": HOSTILE})
    assert made.results is not None
    made.results["tasks"][0]["models"][1]["instruction"] = HOSTILE
    made.arm = HOSTILE
    return made


def pages(tmp_path: Path) -> dict[str, str]:
    """Both cards of the hostile run."""
    here = gathered(tmp_path, hostile())
    config = CONFIG.model_copy(update={"licence": None, "rejected": True})
    found = refusals.find(here, config)
    assert {"licence-unknown", "contaminated"} <= {one.name for one in found}
    return {"model": model_text(here, found, config), "dataset": dataset_card.render(here, found, config)}


def test_hostile_text_is_text(tmp_path: Path) -> None:
    for card in pages(tmp_path).values():
        head = yaml.safe_load(card.split("\n---\n", 1)[0])
        assert isinstance(head, dict) and head["license"] == "unknown"
        tokens = PLAIN.parse(body_of(card))
        inner = [child for token in tokens for child in token.children or ()]
        assert not [token for token in (*tokens, *inner) if token.type in ("html_block", "html_inline")]
        links = {str(child.attrs["href"]) for child in inner if child.type == "link_open"}
        assert all(re.match(r"https://(huggingface\.co|www\.apache\.org|spdx\.org)/", link) for link in links), links
        assert "1787569" not in body_of(card)  # no template was run
        assert "\u202e" not in card
        heads = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
        assert not [text for text in heads if text.startswith("Head")]


@pytest.mark.parametrize("width", [390, 1280])
def test_cards_look_as_they_should(tmp_path: Path, chromium: Any, width: int, plain: Release) -> None:
    cards = {**pages(tmp_path), "plain": model_text(plain), "plain-dataset": dataset_card.render(plain, (), CONFIG)}
    for name, card in cards.items():
        page = tmp_path / f"{name}.html"
        # as the Hub does: a wide table scrolls in its own box
        html = PLAIN.render(body_of(card)).replace("<table>", '<div style="overflow-x:auto"><table>')
        html = html.replace("</table>", "</table></div>").replace("<pre>", '<pre style="overflow-x:auto">')
        page.write_text(f"<!doctype html><meta charset=utf-8><title>x</title><style>{STYLE}</style>{html}")
        with chromium.open(page.as_uri(), width=width) as opened:
            assert opened.complaints == []
            assert opened.remote == []
            shown = opened.page.inner_text("body")
            assert "{%" not in shown and "Undefined" not in shown
            rows = opened.page.evaluate(
                "[...document.querySelectorAll('table')].map(t => [...t.rows].map(r => r.cells.length))"
            )
            assert rows and all(len(set(cells)) == 1 for cells in rows)  # no cell broke out of its row
