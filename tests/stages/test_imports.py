"""The `import` stage: trace sets as they are published become samples that later stages take as they are."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distill import experiment, layouts, pipeline
from distill.core import tables
from distill.core.errors import ConfigError, DistillError
from distill.core.records import Message, Problem, Sample, Trace, Verdict, problem_id
from distill.core.stage import StageRun, Workspace
from distill.layouts import DIALECTS, LAYOUTS, Reader, Recorded
from distill.pipeline import Runner
from distill.sources import gsm8k, traces
from distill.stages import filter as filter_stage
from distill.stages import imports, verify
from distill.stages.imports import Config, Set, Tally, recorded, references
from distill.text.think import join_think
from tests.stages.answers import make_problem, make_stage


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def responses(problems: list[Problem], config: Config) -> tuple[list[Sample], Counter[str]]:
    """What an import makes of recorded responses to these problems, and what it leaves out."""
    tally = Tally()
    samples = list(recorded(problems, imports.sets_of({"import": config}), tally))
    return samples, tally.missed


def read(folder: Path, layout: str, rows: list[dict[str, Any]], **settings: Any) -> list[Recorded]:
    config = traces.Config.model_validate(
        {"path": str(write(folder / "set.jsonl", rows)), "layout": layout, **settings}
    )
    return list(Reader(config.path, config.layout, config, "import"))


def test_a_worked_solution_becomes_reasoning_and_its_gold_a_boxed_answer():
    problems = [
        make_problem(1, reference_reasoning="1*7=7"),
        make_problem(2),
        make_problem(3, reference_reasoning="3*7=21", split="test"),
    ]
    tally = Tally()

    samples = list(references(problems, tally=tally))

    assert [(s.reasoning, s.answer, s.engine, s.closed) for s in samples] == [
        ("1*7=7", "Answer: \\boxed{7}", "import", True)
    ]
    assert dict(tally.missed) == {"training problems without a worked solution or gold": 1}


def test_responses_are_joined_by_the_text_of_the_question(tmp_path: Path):
    problems = [make_problem(1), make_problem(2)]
    rows = [
        {"question": "What is  1*7?\n", "a": {"text": "<think>1*7</think>7"}, "b": ["7", "<think>never ends"]},
        {"question": "What is 9*7?", "a": {"text": "63"}, "b": []},
        {"question": "What is 2*7?", "a": {"text": "so 14</think>\\boxed{14}"}, "b": []},
    ]
    config = Config(layout="responses", path=str(write(tmp_path / "r.jsonl", rows)), responses=["a.text", "b"])

    samples, missed = responses(problems, config)

    assert [(s.problem_id == problems[0].id, s.index, s.reasoning, s.answer, s.closed) for s in samples] == [
        (True, 0, "1*7", "7", True),
        (True, 1, None, "7", True),
        (True, 2, "never ends", "", False),
        (False, 0, "so 14", "\\boxed{14}", True),
    ]
    assert dict(missed) == {"rows whose question is no problem here": 1}
    assert len({s.key for s in samples}) == 4
    assert samples[0].model_name == "r.jsonl"


def test_a_thinker_that_never_closes_is_unfinished(tmp_path: Path):
    path = write(
        tmp_path / "r.jsonl", [{"question": "What is 1*7?", "response": "so it is \\boxed{7}", "end": "length"}]
    )
    settings = {"layout": "responses", "path": str(path), "finish_reason": "end"}

    declared = responses([make_problem(1)], Config(**settings, thinker=True))[0][0]
    plain = responses([make_problem(1)], Config(**settings))[0][0]

    assert (declared.closed, declared.answer, declared.finish_reason) == (False, "", "length")
    assert (plain.closed, plain.answer) == (True, "so it is \\boxed{7}")


def test_a_changed_response_is_another_sample(tmp_path: Path):
    keys = []
    for text in ("7", "8", "7"):
        path = write(tmp_path / "r.jsonl", [{"question": "What is 1*7?", "response": text}])
        keys.append(responses([make_problem(1)], Config(layout="responses", path=str(path)))[0][0].key)

    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "What is 1*7?"}, r"r\.jsonl:1: no field `response`"),
        ({"question": "What is 1*7?", "response": 7}, r"r\.jsonl:1: `response` is neither a text nor a list of texts"),
        ({"response": "7"}, r"r\.jsonl:1: no field `question`"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, row: dict[str, Any], message: str):
    path = write(tmp_path / "r.jsonl", [row])

    with pytest.raises(DistillError, match=message):
        responses([make_problem(1)], Config(layout="responses", path=str(path)))


def test_settings_that_contradict_are_refused():
    with pytest.raises(ValidationError, match="needs `path`"):
        Config(layout="responses")
    with pytest.raises(ValidationError, match="`path` needs a `layout`"):
        Config(path="x.jsonl")


def test_nothing_to_import_is_an_error(tmp_path: Path):
    stage = make_stage(tmp_path, "import", Config(), [make_problem(1)])

    with pytest.raises(DistillError, match="no answer for any problem"):
        imports.run(stage)


# ---- layouts

SAID = "Right: \\boxed{4}."
STRATOS = (
    "<|begin_of_thought|>\n\nTwo and two.\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{SAID}\n\n<|end_of_solution|>"
)
THOUGHT = f"<think>\nTwo and two.\n</think>\n\n{SAID}"
ASKED = "What is 2+2?"

ROWS: dict[str, dict[str, Any]] = {
    "openthoughts": {
        "system": "Your role is to think between delimiters.",
        "conversations": [{"from": "user", "value": ASKED}, {"from": "assistant", "value": STRATOS}],
    },
    "openthoughts 3": {
        "difficulty": 7, "source": "stackexchange", "domain": "code",
        "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": THOUGHT}],
    },
    "openr1": {
        "problem": ASKED, "solution": "It is 4.", "answer": "4", "problem_type": "Algebra", "source": "olympiads",
        "question_type": "math-word-problem", "uuid": "a-b", "generations": [THOUGHT, "<think>\nTwo and"],
        "is_reasoning_complete": [True, False], "correctness_math_verify": [True, False], "correctness_llama": None,
        "finish_reasons": ["stop", "length"], "correctness_count": 1,
        "messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": THOUGHT}],
    },
    "s1k": {
        "solution": "4", "question": ASKED, "cot_type": "math", "source_type": "AIME", "metadata": "{}", "cot": None,
        "thinking_trajectories": ["Two and two."], "attempt": SAID,
    },
    "s1k-1.1": {
        "solution": "So \\boxed{4}", "question": ASKED, "cot_type": "math", "source_type": "AIME", "metadata": "{}",
        "gemini_thinking_trajectory": "No.", "gemini_attempt": "5", "deepseek_grade": "Yes",
        "deepseek_thinking_trajectory": "Two and two.", "deepseek_attempt": SAID,
    },
    "bespoke-stratos": {
        "system": "Your role is to think between delimiters.",
        "conversations": [{"from": "user", "value": ASKED}, {"from": "assistant", "value": STRATOS}],
    },
    "chat": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": THOUGHT}]},
    "responses": {"question": ASKED, "response": f"<think>Two and two.</think>{SAID}"},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("name", ROWS)
def test_every_layout_is_read_from_every_kind_of_file(tmp_path: Path, name: str, kind: str):
    path, row = tmp_path / f"set.{kind}", ROWS[name]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif kind == "jsonl.zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(json.dumps(row).encode() + b"\n")
    else:
        path.write_bytes((gzip.compress if kind == "jsonl.gz" else bytes)(json.dumps(row).encode() + b"\n"))
    config = traces.Config.model_validate({"path": str(path), "layout": name.partition(" ")[0]})

    (found,) = Reader(config.path, config.layout, config, "import")

    assert found.problem.messages == (Message("user", ASKED),)
    first = found.responses[0]
    assert (first.split.reasoning, first.split.answer, first.split.closed) == ("Two and two.", SAID, True)
    assert first.finish_reason == "stop"
    assert (first.origin["file"], first.origin["row"], first.origin["response"]) == (path.name, 1, 0)
    assert str(tmp_path) not in json.dumps(first.origin)


def test_what_a_set_says_of_its_responses_is_kept_and_not_believed(tmp_path: Path):
    (found,) = read(tmp_path, "openr1", [ROWS["openr1"]])

    assert (found.problem.gold, found.problem.domain, found.model) == ("4", "Algebra", "DeepSeek-R1")
    assert [(r.split.closed, r.finish_reason) for r in found.responses] == [(True, "stop"), (False, "length")]
    assert [r.origin["claims"] for r in found.responses] == [
        {"correctness_math_verify": True, "is_reasoning_complete": True},
        {"correctness_math_verify": False, "is_reasoning_complete": False},
    ]
    assert found.responses[0].origin | {"claims": {}} == {
        "layout": "openr1", "dataset": "OpenR1-Math-220k", "licence": "apache-2.0", "file": "set.jsonl", "row": 1,
        "source": "olympiads", "uuid": "a-b", "question_type": "math-word-problem", "response": 0, "claims": {},
    }  # fmt: skip


def test_what_the_sets_write_where_there_is_no_gold_is_none(tmp_path: Path):
    rows = [ROWS["openr1"] | {"answer": answer} for answer in ("proof", "notfound", "", None, "4")]

    assert [row.problem.gold for row in read(tmp_path, "openr1", rows)] == [None, None, None, None, "4"]


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        ("128", "128"), ("So it is $4$.\n\nIt follows that \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"), ("C", "C"),
        ("Let x be 3.\n\nThen y is 5, which was to be shown.", None), ("x " * 200 + "5", None), ("", None),
    ],
)  # fmt: skip
def test_of_a_worked_solution_the_answer_that_it_marks_is_gold(tmp_path: Path, solution: str, gold: str | None):
    assert read(tmp_path, "s1k", [ROWS["s1k"] | {"solution": solution}])[0].problem.gold == gold


def test_of_parquet_only_the_columns_that_count_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS["openr1"]]), path)
    asked: list[Any] = []
    rows = layouts.tabular.parquet_rows
    monkeypatch.setattr("distill.tabular.parquet_rows", lambda file, names: asked.append(names) or rows(file, names))

    for layout in ("openr1", "s1k"):
        config = traces.Config.model_validate({"path": str(path), "layout": layout, "max_unreadable": 1.0})
        list(Reader(config.path, config.layout, config, "import"))

    assert set(asked[0]) & {"messages", "solution", "correctness_count"} == set()
    assert {"problem", "generations", "answer", "uuid"} < set(asked[0])
    assert asked[1] is None


def test_settings_go_before_the_layout(tmp_path: Path):
    (gemini,) = read(
        tmp_path, "s1k-1.1", [ROWS["s1k-1.1"]], reasoning="gemini_thinking_trajectory", answer="gemini_attempt",
        model="gemini", gold="cot_type", licence="mine", dataset="ours",
    )  # fmt: skip
    (mapped,) = read(
        tmp_path, "responses", [{"problem": ASKED, "r1": {"thought": "Two.", "said": "4"}, "truth": 4}],
        question="problem", reasoning="r1.thought", answer="r1.said", gold="truth",
    )  # fmt: skip
    (tagged,) = read(
        tmp_path, "chat", [{"talk": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": STRATOS}]}],
        messages="talk", dialect="begin_of_thought",
    )  # fmt: skip

    assert (gemini.responses[0].split.reasoning, gemini.responses[0].split.answer) == ("No.", "5")
    assert (gemini.model, gemini.problem.gold, gemini.problem.licence) == ("gemini", "math", "mine")
    assert gemini.responses[0].origin["dataset"] == gemini.problem.source == "ours"
    assert (mapped.responses[0].split.reasoning, mapped.problem.gold) == ("Two.", "4")
    assert tagged.responses[0].split.answer == SAID


def test_a_system_prompt_that_teaches_delimiters_goes_and_that_of_a_chat_stays(tmp_path: Path):
    turns = [{"role": "system", "content": "Be brief."}, *ROWS["chat"]["messages"]]

    assert read(tmp_path, "openthoughts", [ROWS["openthoughts"]])[0].problem.messages == (Message("user", ASKED),)
    (kept,) = read(tmp_path, "openthoughts", [ROWS["openthoughts"]], keep_system=True)
    assert kept.problem.messages[0] == Message("system", "Your role is to think between delimiters.")
    assert read(tmp_path, "chat", [{"messages": turns}])[0].problem.messages[0] == Message("system", "Be brief.")
    assert len(read(tmp_path, "chat", [{"messages": turns}], keep_system=False)[0].problem.messages) == 1


def test_earlier_turns_are_shown_without_their_thinking_and_parts_of_a_turn_are_one_text(tmp_path: Path):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+1?"}]},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"},
        {"role": "user", "content": "And 2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
    ]

    (found,) = read(tmp_path, "chat", [{"messages": turns}])

    assert [message.content for message in found.problem.messages] == ["What is 1+1?", "2", "And 2+2?"]
    assert (found.responses[0].split.reasoning, found.responses[0].split.answer) == ("Two and two.", "4")


@pytest.mark.parametrize("thought", [None, "", [], ["  "]])
def test_a_column_of_reasoning_that_is_empty_is_no_reasoning(tmp_path: Path, thought: Any):
    (found,) = read(tmp_path, "s1k", [ROWS["s1k"] | {"thinking_trajectories": thought}])

    assert (found.responses[0].split.reasoning, found.responses[0].split.closed) == (None, True)
    assert found.responses[0].split.answer == found.responses[0].text == SAID


def test_data_without_reasoning_has_none(tmp_path: Path):
    (found,) = read(
        tmp_path, "chat", [{"messages": [*ROWS["chat"]["messages"][:1], {"role": "assistant", "content": "4"}]}]
    )

    assert (found.responses[0].split.reasoning, found.responses[0].split.closed) == (None, True)


def test_a_thinking_set_without_an_end_of_thinking_is_unfinished(tmp_path: Path):
    rows = [ROWS["openr1"] | {"generations": [text]} for text in ("<think>\nso \\boxed{4}", "so \\boxed{4}")]

    assert [row.responses[0].split.closed for row in read(tmp_path, "openr1", rows)] == [False, False]
    assert [row.responses[0].split.closed for row in read(tmp_path, "openr1", rows, thinker=False)] == [False, True]


@given(
    name=st.sampled_from(["think", "begin_of_thought", "harmony"]),
    thought=st.text(st.characters(exclude_characters="<|>\n", codec="utf-8"), min_size=1, max_size=40),
    said=st.text(st.characters(exclude_characters="<|>\n", codec="utf-8"), min_size=1, max_size=40),
)
def test_a_response_in_any_dialect_comes_apart_where_it_was_joined(name: Any, thought: str, said: str):
    config = traces.Config(path="x.jsonl", layout="chat", dialect=name)
    reader = Reader("x.jsonl", "chat", config, "import")

    split, whole = reader._taken_apart(join_think(thought, said, DIALECTS[name]), None)

    assert (split.reasoning, split.answer, split.closed) == (thought, said, True)
    assert split.whole == whole


# ---- rows that cannot be read


BAD = [
    ("{nonsense", "not JSON"),
    ('{"problem": "x"}', "no field `generations`"),
    ('{"problem": "", "generations": ["y"]}', "`problem` is empty"),
    ('{"problem": "x", "generations": [null]}', "`generations` is neither a text nor a list of texts"),
    ("[1]", "a row is an object with named fields"),
]


def test_rows_that_cannot_be_read_are_counted_by_reason_and_the_first_are_named(tmp_path: Path):
    good = [json.dumps(ROWS["openr1"] | {"problem": f"Question {n}?"}) for n in range(45)]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join([*good, *(line for line, _ in BAD)]) + "\n")
    config = traces.Config(path=str(path), layout="openr1", max_unreadable=0.1)
    reader = Reader(config.path, config.layout, config, "import")

    assert len(list(reader)) == 45
    assert dict(reader.unread) == {reason: 1 for _, reason in BAD}
    assert [name.partition(" ")[0] for name in reader.named] == [f"{path}:{n}:" for n in (46, 47, 48)]
    with pytest.raises(DistillError, match=r"5 of 50 rows cannot be read.*\(5%\).*set\.jsonl:46: not JSON"):
        list(Reader(config.path, "openr1", config.model_copy(update={"max_unreadable": 0.05}), "import"))


def test_a_wrong_layout_says_which_one_fits(tmp_path: Path):
    with pytest.raises(DistillError, match=r"no field `messages`.*its columns are those of `layout: s1k`") as refused:
        read(tmp_path, "chat", [ROWS["s1k"], ROWS["s1k"], {"question": "cut off"}])
    assert str(refused.value).count("no field `messages`") == 1


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "the turns are no list of objects"),
        ([{"role": "user", "content": "x"}], "the last turns are no question and its answer"),
        ([{"role": "assistant", "content": "x"}], "the last turns are no question and its answer"),
        ([{"role": "tool", "content": "x"}], "a turn of role `tool`"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "x"}], "a turn's content is no text"),
    ],
)
def test_turns_that_are_none_are_said(tmp_path: Path, turns: Any, message: str):
    with pytest.raises(DistillError, match=rf"set\.jsonl:1: {message}"):
        read(tmp_path, "chat", [{"messages": turns}])


# ---- a trace set on its own


def as_problem(text: str, **about: Any) -> Problem:
    messages = (Message("user", text),)
    return Problem(problem_id(messages), messages, "4", "train", **about)


def test_a_system_prompt_that_is_kept_goes_with_answers_to_others_problems(tmp_path: Path):
    path = write(tmp_path / "set.jsonl", [ROWS["openthoughts"]])
    config = Config(layout="openthoughts", path=str(path), keep_system=True)

    ((sample,), _) = responses([as_problem(ASKED)], config)

    assert sample.system == "Your role is to think between delimiters."
    trace = filter_stage.trace_of(as_problem(ASKED), sample, None)
    assert [message.role for message in trace.messages] == ["system", "user"]


def test_a_system_prompt_of_the_problem_itself_is_not_said_twice(tmp_path: Path):
    turns = [{"role": "system", "content": "Be brief."}, *ROWS["chat"]["messages"]]
    path = write(tmp_path / "set.jsonl", [{"messages": turns}])
    (found,) = read(tmp_path, "chat", [{"messages": turns}])

    ((sample,), _) = responses([found.problem], Config(layout="chat", path=str(path)))

    assert (sample.problem_id, sample.system) == (found.problem.id, None)


def test_a_conversation_is_joined_by_all_its_turns(tmp_path: Path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *ROWS["chat"]["messages"]]
    path = write(tmp_path / "set.jsonl", [{"messages": turns}])

    samples, missed = responses([as_problem(ASKED)], Config(layout="chat", path=str(path)))

    assert (samples, dict(missed)) == ([], {"rows whose question is no problem here": 1})


ALONE = """\
name: alone
problems: {source: {traces: {path: PATH, layout: openr1}}, dev: 2, test: 2}
import: {}
verify: {verifier: math}
filter: [verdict, unfinished, exact_duplicates]
student: {model: embedded, adapter: none}
train: {loss: none, epochs: 1, batch_size: 8}
"""


def alone(folder: Path, rows: list[dict[str, Any]], text: str = ALONE) -> Runner:
    path = folder / "openr1.jsonl"
    write(path, rows)
    (folder / "alone.yaml").write_text(text.replace("PATH", str(path)))
    loaded = experiment.load(folder / "alone.yaml", pipeline.SECTIONS)
    experiment.check(loaded, pipeline.CHECKS, folder / "alone.yaml")
    return Runner(loaded, Workspace(folder / "runs"))


def sums(count: int) -> list[dict[str, Any]]:
    """Rows of the `openr1` layout: each with a right, a wrong and an unfinished response."""
    return [
        ROWS["openr1"] | {
            "problem": f"What is {n}+{n}?", "answer": str(2 * n),
            "generations": [f"<think>\n{n}+{n}={m}\n</think>\n\n\\boxed{{{m}}}" for m in (2 * n, 2 * n + 1)]
            + [f"<think>\n{n}+{n} is"],
            "finish_reasons": ["stop", "stop", "length"],
        }
        for n in range(count)
    ]  # fmt: skip


def test_a_trace_file_alone_goes_through_verify_filter_and_train(tmp_path: Path):
    done = {item.stage.name: item for item in alone(tmp_path, sums(40)).run()}

    counts = {name: item.manifest.data["counts"] for name, item in done.items()}
    n = sum(counts["problems"]["splits"].values())
    assert counts["import"]["samples"] == 3 * n
    assert counts["verify"]["verdicts"] | {"error": 0} == {
        "correct": n, "wrong": n, "unparseable": n, "ungradable": 0, "error": 0
    }  # fmt: skip
    kept = tables.read(done["filter"].folder / "traces.parquet", Trace)
    assert len(kept) == counts["problems"]["splits"]["train"] == counts["train"]["rows"]
    for trace in kept:
        assert (trace.verdict, trace.source, trace.licence) == ("correct", "OpenR1-Math-220k", "apache-2.0")
        assert trace.model_name == "DeepSeek-R1"
        row = trace.origin["row"]
        assert trace.messages == (Message("user", f"What is {row - 1}+{row - 1}?"),)
        assert (trace.origin["file"], trace.origin["response"]) == ("openr1.jsonl", 0)
    assert (done["train"].folder / "student").exists()


def test_the_file_counts_and_its_place_does_not(tmp_path: Path):
    text = ALONE[: ALONE.index("student:")]
    list(alone(tmp_path, sums(20), text).run())
    (tmp_path / "openr1.jsonl").rename(tmp_path / "moved.jsonl")
    (tmp_path / "alone.yaml").write_text(text.replace("PATH", str(tmp_path / "moved.jsonl")))
    loaded = experiment.load(tmp_path / "alone.yaml", pipeline.SECTIONS)

    assert not any(item.ran for item in Runner(loaded, Workspace(tmp_path / "runs")).run())
    again = {item.stage.name: item.ran for item in alone(tmp_path, sums(21), text).run()}
    assert again == {"problems": True, "import": True, "verify": True, "filter": True}


def test_how_a_set_is_read_counts_though_its_problems_are_the_same(tmp_path: Path):
    text = ALONE[: ALONE.index("student:")]
    list(alone(tmp_path, sums(20), text).run())

    again = {
        item.stage.name: item for item in alone(tmp_path, sums(20), text.replace("openr1}", "openr1, model: R1}")).run()
    }

    assert again["import"].ran
    kept = tables.read(again["filter"].folder / "traces.parquet", Trace)
    assert {trace.model_name for trace in kept} == {"R1"}


def test_the_trace_sets_of_a_mixture_are_all_imported(tmp_path: Path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chat = write(tmp_path / "chat.jsonl", [{"messages": turns}])
    source = {
        "a": {
            "source": {"traces": {"path": str(write(tmp_path / "r1.jsonl", sums(3))), "layout": "openr1"}},
            "count": 3,
        },
        "b": {"source": {"traces": str(chat)}, "count": 1, "domain": "talk"},
    }
    text = ALONE[: ALONE.index("student:")].replace(
        "{traces: {path: PATH, layout: openr1}}", json.dumps({"mixture": {"parts": source}})
    )
    text = text.replace(", dev: 2, test: 2", ", dev_share: 0, test_share: 0").replace("verdict, ", "")

    done = {item.stage.name: item for item in alone(tmp_path, [], text).run()}

    assert done["import"].manifest.data["counts"] == {"samples": 10, "problems": 4}
    assert [row["set"] for row in done["import"].manifest.data["rows"]] == ["r1.jsonl", "chat.jsonl"]
    kept = tables.read(done["filter"].folder / "traces.parquet", Trace)
    assert {trace.domain for trace in kept} == {"a", "talk"}


def test_a_file_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path):
    theirs = "problems: {source: {traces: nowhere.jsonl}}\nimport: {}\n"
    for text, key in (
        ("problems: {source: embedded}\nimport: {layout: chat, path: nowhere.jsonl}\n", "import.path"),
        (theirs, "problems.source"),
    ):
        with pytest.raises(ConfigError, match=rf"`{key}`: nowhere\.jsonl: no such file"):
            alone(tmp_path, [], text)


def test_a_folder_is_no_file(tmp_path: Path):
    text = f"problems: {{source: {{traces: {tmp_path}}}}}\nimport: {{}}\n"

    with pytest.raises(ConfigError, match="is a folder; name its files"):
        alone(tmp_path, [], text)


def test_an_id_of_the_hub_is_told_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("")

    assert layouts.is_hub_id("open-r1/OpenR1-Math-220k")
    assert not any(map(layouts.is_hub_id, ["a/b", "data/x.parquet", "x.jsonl", "/a/b", "data/part-*.parquet"]))


def test_a_set_of_the_hub_keeps_its_revision_and_rows(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def read(*named: Any, most: int | None) -> Any:
        asked.append((*named, most))
        return iter([("open-r1/OpenR1-Math-220k all default:1", ROWS["openr1"])])

    monkeypatch.setattr("distill.sources.hub.read", read)
    monkeypatch.setattr("distill.sources.hub.current", lambda path: "e4e141e")
    settings = {"path": "open-r1/OpenR1-Math-220k", "layout": "openr1", "name": "all", "from_split": "default"}
    config = Config.model_validate(settings)

    ((sample, _), _) = responses([as_problem(ASKED)], config)

    assert asked == [("open-r1/OpenR1-Math-220k", "all", "default", "e4e141e", None)]
    assert sample.origin["dataset"] == "open-r1/OpenR1-Math-220k"
    assert (sample.origin["revision"], sample.origin["row"]) == ("e4e141e", 1)
    assert "path" in config.keyed()
    assert imports.externals({"import": config}) == {}


def test_every_layout_is_in_the_settings():
    assert set(LAYOUTS) == {name.partition(" ")[0] for name in ROWS}
    assert Set("x", "chat", Config()).layout == "chat"


# ---- real data


def test_gsm8k_goes_through_verify_and_filter(tmp_path: Path, shared_data: Path):
    problems = read_gsm8k(shared_data / "gsm8k" / "train.jsonl.gz", 300)

    traces = through(tmp_path, problems, Config())

    assert len(traces) == 300
    assert all(t.verdict == "correct" and t.reasoning and "<<" not in t.reasoning for t in traces)
    assert all(t.prompt_ids is None and t.model_name == "gsm8k reference" for t in traces)


def test_recorded_solutions_of_test_problems_are_graded_and_never_kept(tmp_path: Path, shared_data: Path):
    problems = read_gsm8k(shared_data / "gsm8k" / "test.jsonl.gz", None, split="test")
    path = shared_data / "gsm8k_model_solutions" / "example_model_solutions.jsonl.gz"
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    config = Config(layout="responses", path=str(path), responses=[f"{model}.solution" for model in models])

    traces = through(tmp_path, problems, config)

    verdicts = tables.read(tmp_path / "verify" / "verdicts.parquet", Verdict)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        labels = [row[model]["is_correct"] for row in map(json.loads, file) for model in models]
    assert [v.value == "correct" for v in verdicts] == labels
    assert traces == []


def read_gsm8k(path: Path, count: int | None, split: Any = "train") -> list[Problem]:
    everything = {"train": None, "dev": None, "test": None}
    return list(gsm8k.build(gsm8k.Config(path=str(path), split=split), everything))[:count]  # type: ignore[arg-type]  # keys are splits


def through(root: Path, problems: list[Problem], config: Config) -> list[Trace]:
    """Import, verify and filter, each in its folder; returns what a student would train on."""
    tables.write(root / "problems" / "problems.parquet", problems, Problem)
    sections = {
        "import": config,
        "verify": verify.Config(),
        "filter": filter_stage.Config.model_validate(["verdict", "unfinished", "repetition", "exact_duplicates"]),
    }
    inputs = {name: root / name for name in ("problems", "sample", "verify")}
    for folder, name, module in (
        ("sample", "import", imports),
        ("verify", "verify", verify),
        ("filter", "filter", filter_stage),
    ):
        (root / folder).mkdir()
        module.run(StageRun(name, root / folder, inputs, {name: sections[name]}, 0, Workspace(root)))
    assert tables.read(root / "sample" / "samples.parquet", Sample)
    return tables.read(root / "filter" / "traces.parquet", Trace)


def test_what_r1_said_on_math_is_graded_as_its_authors_did(tmp_path: Path, shared_data: Path):
    path = shared_data / "r1_math500_traces" / "traces.jsonl.gz"
    source = {
        "path": str(path), "layout": "responses", "question": "problem", "responses": ["full_response"],
        "gold": "ground_truth", "model_column": "model_short_name", "thinker": True, "split": "train",
    }  # fmt: skip
    text = ALONE[: ALONE.index("student:")].replace("{path: PATH, layout: openr1}", json.dumps(source))

    done = {item.stage.name: item for item in alone(tmp_path, [], text).run()}

    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    verdicts = tables.read(done["verify"].folder / "verdicts.parquet", Verdict)
    assert [verdict.value == "correct" for verdict in verdicts] == [row["checked_correct"] for row in rows]
    kept = tables.read(done["filter"].folder / "traces.parquet", Trace)
    assert all(t.model_name == rows[t.origin["row"] - 1]["model_short_name"] and t.reasoning for t in kept)


def test_traces_whose_reasoning_comes_apart_or_is_missing_are_read(tmp_path: Path, shared_data: Path):
    for name, thinks in (("q3_30ba3-think", True), ("q3_30ba3", False)):
        path = str(shared_data / "thinking_traces" / f"{name}.jsonl.gz")
        config = traces.Config(
            path=path, layout="responses", question="prompt_id", reasoning="thinking", answer="output",
            model_column="llm",
        )  # fmt: skip

        found = list(Reader(path, "responses", config, "import"))

        assert len(found) > 100
        assert {row.responses[0].split.reasoning is not None for row in found} == {thinks}
