"""Families of teachers: what their files say, which model belongs to which, and how their answers are taken apart."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distill import experiment, pipeline
from distill.core.config import digest
from distill.core.errors import ConfigError
from distill.core.protocols import Answer, Completion
from distill.core.records import FinishReason, Message, ModelIdentity, Problem, Sampling
from distill.rollout.answers import as_sample
from distill.rollout.asks import Ask
from distill.rollout.price import Price
from distill.text.chat import prefill_start
from distill.text.think import split_think
from distill.verifiers import math
from teachers import family
from teachers.settings import Config

FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"

# What a server of each family returns for one question: (text, reasoning field), finished and cut in its thinking. The
# thinking holds a wrong answer, so that whoever reads it as the answer is found out. None: it cannot come so.
THOUGHT, ANSWER = "17 + 25 is \\boxed{41}, no", "So it is \\boxed{42}."
FIXTURES: dict[str, list[tuple[tuple[str, str | None], tuple[str, str | None] | None]]] = {
    "deepseek-r1": [
        ((f"<think>{THOUGHT}</think>{ANSWER}", None), (f"<think>{THOUGHT}", None)),
        ((f"{THOUGHT}</think>{ANSWER}", None), (THOUGHT, None)),  # the template opened the block
        ((ANSWER, THOUGHT), ("", THOUGHT)),  # reasoning_content
    ],
    "deepseek-r1-distill": [
        ((f"{THOUGHT}</think>{ANSWER}", None), (THOUGHT, None)),
        ((ANSWER, THOUGHT), ("", THOUGHT)),
    ],
    "qwq-32b": [((f"{THOUGHT}</think>{ANSWER}", None), (THOUGHT, None))],
    "qwen3": [((f"<think>{THOUGHT}</think>{ANSWER}", None), (f"<think>{THOUGHT}", None)), ((ANSWER, THOUGHT), None)],
    "glm-4.5": [((f"\n<think>{THOUGHT}</think>{ANSWER}", None), (f"\n<think>{THOUGHT}", None))],
    "glm-z1": [((f"{THOUGHT}</think>{ANSWER}", None), (THOUGHT, None))],
    "r1-zero": [
        ((f"<think>{THOUGHT}</think> <answer>{ANSWER}</answer>", None), (f"<think>{THOUGHT}", None)),
        ((f"{THOUGHT}</think>\n<answer>{ANSWER}</answer>\n", None), (f"{THOUGHT} <answer>", None)),
    ],
    "gpt-oss": [
        (
            (f"<|channel|>analysis<|message|>{THOUGHT}{FINAL}{ANSWER}<|return|>", None),
            (f"<|channel|>analysis<|message|>{THOUGHT}", None),
        ),
        ((f"analysis{THOUGHT}assistantfinal{ANSWER}", None), (f"analysis{THOUGHT}", None)),
        ((ANSWER, THOUGHT), ("", THOUGHT)),
    ],
    "kimi": [((f"◁think▷{THOUGHT}◁/think▷{ANSWER}", None), (f"◁think▷{THOUGHT}", None))],
    "magistral": [
        ((f"[THINK]{THOUGHT}[/THINK]{ANSWER}", None), (f"[THINK]{THOUGHT}", None)),
        ((ANSWER, THOUGHT), None),
    ],
    "claude": [((ANSWER, THOUGHT), ("", THOUGHT))],
    "gemini": [
        ((f"<thought>{THOUGHT}</thought>{ANSWER}", None), (f"<thought>{THOUGHT}", None)),
        ((ANSWER, THOUGHT), None),
    ],
}
NEVER_SHOWN = ["openai-o", "chain-of-thought", "qwen3-instruct"]


@pytest.mark.parametrize("name", family.names())
def test_a_family_says_what_a_buyer_must_know(name: str):
    loaded = family.load(name)

    assert loaded.name == name
    assert loaded.licence != "unknown"
    assert loaded.terms != family.DEFAULT.terms
    assert loaded.dialect.kind is not None or name == "embedded"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|unverified", source.read) for source in loaded.sources)
    assert all(pattern == pattern.lower() for pattern in loaded.match)
    if loaded.licence != "that of the model":
        assert any("terms" in source.about for source in loaded.sources)
    assert loaded.title in loaded.notice and loaded.terms in loaded.notice
    assert re.search(r"read \d{4}-|unverified", loaded.notice)
    assert (loaded.licence == "service") == (loaded.distillation == "forbidden")
    assert loaded.record["notice"] == loaded.notice and loaded.record["distillation"] == loaded.distillation


@pytest.mark.parametrize("name", family.names())
def test_every_family_has_its_fixture(name: str):
    assert name in FIXTURES or name in NEVER_SHOWN or name == "embedded"


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name in FIXTURES for place in range(len(FIXTURES[name]))]
)
def test_every_dialect_gives_the_same_record(name: str, place: int):
    (text, apart), cut = FIXTURES[name][place]
    dialect = family.load(name).dialect

    split = split_think(text, dialect=dialect, apart=apart)

    assert (split.reasoning, split.answer, split.closed) == (THOUGHT, ANSWER, True)
    if cut is not None:
        unfinished = split_think(cut[0], dialect=dialect, apart=cut[1])
        assert (unfinished.answer, unfinished.closed) == ("", False)


@pytest.mark.parametrize("name", [name for name in FIXTURES if family.load(name).dialect.thinker])
def test_a_thinker_whose_text_has_no_tags_is_unfinished(name: str):
    split = split_think("It is \\boxed{41}", dialect=family.load(name).dialect, thinker=False)

    assert (split.answer, split.closed) == ("", False)


@pytest.mark.parametrize("name", NEVER_SHOWN)
def test_a_family_whose_reasoning_does_not_come_gives_its_answer_whole(name: str):
    split = split_think("first </think> then \\boxed{42}", dialect=family.load(name).dialect)

    assert (split.reasoning, split.answer, split.closed) == (None, "first </think> then \\boxed{42}", True)


def test_every_family_s_answers_are_graded_by_what_stands_after_the_thinking():
    """Traps A2 to A5, from completion to verdict: the thinking boxes 41, the answer 42; a cut one is unparseable."""
    problem = Problem("p", (Message("user", "17 + 25?"),), "42", "train")
    records, finished = [], []
    for name, cases in FIXTURES.items():
        for whole, cut in cases:
            for case, reason in ((whole, "stop"), (cut, "length"), (cut, "stop")):
                if case is None:
                    continue
                completion = Completion(
                    "k", case[0], cast(FinishReason, reason), None, None, None, 1, 9, False, reasoning=case[1]
                )
                record = as_sample(
                    completion, Ask(problem, range(1)), 0, Sampling(), ModelIdentity("m", "m"), "made",
                    dialect=family.load(name).dialect,
                )  # fmt: skip
                records.append(record)
                finished.append(case is whole)
    verifier = math.build(math.Config())
    try:
        found = verifier.grade(
            [Answer(r.answer, "42", finish_reason=r.finish_reason, closed=r.closed) for r in records]
        )  # fmt: skip
    finally:
        verifier.close()

    assert [f.value for f in found] == ["correct" if whole else "unparseable" for whole in finished]
    assert {r.reasoning_kind for r in records} == {"full", "summary"}
    assert {r.reasoning for r, whole in zip(records, finished, strict=True) if whole} == {THOUGHT}


def test_qwen3_without_thinking_is_another_family():
    thinking, plain = family.load("qwen3"), family.load("qwen3").asked(thinking=False)

    assert (thinking.temperature, thinking.top_p, thinking.dialect.thinker) == (0.6, 0.95, True)
    assert (plain.temperature, plain.top_p, plain.top_k, plain.dialect.thinker) == (0.7, 0.8, 20, False)
    assert plain.thinking is False and split_think("\\boxed{42}", dialect=plain.dialect).answer == "\\boxed{42}"
    assert thinking.asked(None) is thinking
    assert thinking.asked(thinking=True).dialect == thinking.dialect and thinking.asked(thinking=True).thinking is True
    assert thinking.keyed() != plain.keyed()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-R1-Zero", "r1-zero"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek-r1-distill"),
        ("unsloth/DeepSeek-R1-Distill-Llama-8B-GGUF", "deepseek-r1-distill"),
        ("/models/DeepSeek-R1-Distill-Qwen-7B/", "deepseek-r1-distill"),
        ("Qwen/QwQ-32B", "qwq-32b"),
        ("qwq-32b-q4_k_m.gguf", "qwq-32b"),
        ("Qwen/QwQ-32B-Preview", None),  # thinks without tags
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-instruct"),
        ("Qwen/Qwen3-8B-Base", "chain-of-thought"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", None),
        ("Qwen/Qwen2.5-7B-Instruct", None),
        ("openai/gpt-oss-120b", "gpt-oss"),
        ("o3", "openai-o"),
        ("o4-mini-2025-04-16", "openai-o"),
        ("gpt-5-mini", "openai-o"),
        ("anthropic/claude-sonnet-4-5", "claude"),
        ("gemini-2.5-pro", "gemini"),
        ("moonshotai/Kimi-VL-A3B-Thinking-2506", "kimi"),
        ("mistralai/Magistral-Small-2509", "magistral"),
        ("mistralai/Magistral-Small-2506", None),  # still <think>
        ("zai-org/GLM-4.5-Air", "glm-4.5"),
        ("THUDM/GLM-Z1-32B-0414", "glm-z1"),
        ("embedded-teacher", "embedded"),
        ("me/my-own", None),
    ],
)
def test_which_model_belongs_to_which_family(model: str, name: str | None):
    assert family.fitting(model) == name


def test_no_pattern_stands_in_two_families():
    patterns = [pattern for name in family.names() for pattern in family.load(name).match]
    assert len(patterns) == len(set(patterns))


def test_the_embedded_teacher_is_sampled_as_before_there_were_families():
    found = family.family_of(Config(model="embedded"))

    assert found.keyed() == family.DEFAULT.keyed()
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (0.6, 0.95, 0, 32768)
    assert asdict(found.dialect) == asdict(family.THINK)


def test_a_named_family_goes_before_the_name_of_the_model(tmp_path: Path):
    own = tmp_path / "mine.yaml"
    own.write_text("title: Mine\ndialect: {open: <t>, close: </t>}\ntemperature: 1.0\n")

    assert family.family_of(Config(model="embedded", family="qwen3")).name == "qwen3"
    assert family.family_of(Config(model="embedded", family=str(own))).dialect.close == "</t>"
    assert family.family_of(Config(model="me/unheard-of")) is family.DEFAULT


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("temperatur: 1.0", "1: `temperatur`: no setting `temperatur`. Did you mean `temperature`?"),
        ("\ndialect: {opening: x}", "2: `dialect`:"),
        ("top_p: 0", "1: `top_p`:"),
        ("takes_system: false\nsystem: x", "takes none"),
        ("without_thinking: {temperatur: 1.0}", "1: "),
    ],
)
def test_a_wrong_family_file_is_refused_with_its_line(tmp_path: Path, text: str, said: str):
    own = tmp_path / "mine.yaml"
    own.write_text(text)

    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        family.load(str(own))
    assert str(own) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_family_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean `deepseek-r1`"):
        family.load("deepseek-r2")


def test_what_a_family_says_of_itself_is_no_part_of_the_key():
    found = family.load("deepseek-r1")
    others = {"terms": "others", "distillation": "forbidden", "note": "x", "sources": [], "match": [], "title": "x"}
    noted = found.model_copy(update=others)
    assert digest(noted.keyed()) == digest(found.keyed())
    assert digest(found.model_copy(update={"top_k": 5}).keyed()) != digest(found.keyed())


# llama.cpp's copies of two of the templates close the block unless they are told to think.
TEMPLATES: dict[str, tuple[str, dict[str, bool], bool]] = {
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja": (
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
        {"enable_thinking": True},
        True,
    ),
    "llama-cpp-deepseek-r1.jinja": ("deepseek-ai/DeepSeek-R1", {}, True),
    "Qwen-QwQ-32B.jinja": ("Qwen/QwQ-32B", {"enable_thinking": True}, True),
    "Qwen-Qwen3-0.6B.jinja": ("Qwen/Qwen3-0.6B", {}, False),
}


@pytest.mark.parametrize("file", TEMPLATES)
def test_real_templates_open_what_the_family_says(shared_data: Path, file: str):
    """The prompt's own opening and the family's tags are the same, and a continuation of it splits as it should."""
    model, arguments, opens = TEMPLATES[file]
    found = family.load(family.fitting(model) or "")
    source = (shared_data / "chat_templates" / file).read_text(encoding="utf-8")
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    turn = [{"role": "user", "content": "17 + 25?"}]
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    text, before = (
        template.render(messages=turn, add_generation_prompt=add, **special, **arguments) for add in (True, False)
    )

    start, opened = prefill_start(text, before)

    assert opened == opens
    drawn = f"{THOUGHT}{found.dialect.close}{ANSWER}" if opened else f"{found.dialect.open}{THOUGHT}</think>{ANSWER}"
    assert text[start:].strip() in (found.dialect.open, "")
    split = split_think(drawn, opened=opened, dialect=found.dialect)
    assert (split.reasoning, split.answer, split.closed) == (THOUGHT, ANSWER, True)


def test_real_answers_of_r1_and_its_distills(shared_data: Path):
    with gzip.open(shared_data / "r1_math500_traces" / "traces.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        distilled = "distill" in row["model_name"].lower()
        split = split_think(
            row["full_response"], dialect=family.load("deepseek-r1-distill" if distilled else "deepseek-r1").dialect
        )
        assert split.closed and split.reasoning and split.answer.strip()
        assert "think>" not in split.reasoning + split.answer
        assert split.whole == row["full_response"]


def test_arguments_of_the_experiment_go_over_the_family_s():
    def asked(model: str, **arguments: Any) -> family.Family:
        return family.family_of(
            Config.model_validate(
                {"model": model, "arguments": arguments, "engine": {"openai": {"api_key_env": "KEY"}}}
            )
        )

    gpt_oss, claude = asked("openai/gpt-oss-20b", reasoning_effort="high"), asked("claude-x", x=1)

    assert gpt_oss.arguments == {"reasoning_effort": "high"}
    assert asked("o3", reasoning_effort="high").arguments == {"reasoning_effort": "high"}
    assert "thinking" in claude.arguments and claude.arguments["x"] == 1
    assert claude.asked(thinking=False).arguments == {"x": 1}
    assert digest(gpt_oss.keyed()) != digest(family.load("gpt-oss").keyed())  # another way to ask is another sampling


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("{input: 1}", "`teacher.price` needs `output`"),
        ("fre", "`teacher.price` is the text 'fre'"),
        ("{input: -1, output: 2}", "`teacher.price.input` is -1"),
    ],
)
def test_a_wrong_price_is_refused_with_its_line(tmp_path: Path, price: str, said: str):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\nteacher:\n  model: embedded\n  price: {price}\n")

    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        experiment.load(path, pipeline.SECTIONS)
    assert f"{path}:4:" in str(caught.value)


def test_a_free_teacher_costs_nothing():
    assert Config.model_validate({"model": "embedded", "price": "free"}).price == Price(input=0.0, output=0.0)


@pytest.mark.parametrize("model", ["./nowhere", "gpt-5-mini", "nowhere.gguf"])
def test_a_served_model_may_have_any_name_and_a_local_one_must_be_there(tmp_path: Path, model: str):
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\nteacher:\n  engine: transformers\n  model: {model}\n")

    with pytest.raises(ConfigError, match=re.escape(f"{path}:4: `teacher.model`: no such folder or file: {model}")):
        experiment.load(path, pipeline.SECTIONS)

    path.write_text(f"name: x\nteacher:\n  engine: {{openai: {{api_key_env: KEY}}}}\n  model: {model}\n")
    assert cast(Config, experiment.load(path, pipeline.SECTIONS).arms[0].sections["teacher"]).served


def test_arguments_that_an_engine_would_drop_are_refused(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nteacher:\n  model: embedded\n  arguments: {min_p: 0.1}\n")

    with pytest.raises(ConfigError, match=":4: `teacher.arguments`: engine `transformers` takes none"):
        experiment.load(path, pipeline.SECTIONS)
