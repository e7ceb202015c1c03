"""An assistant's turn as ids, under the templates of real models and under ones made to mislead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.core.records import Message, Trace
from distill.text.chat import TEMPLATE_DATE, apply_template, dated, render_prompt, render_text
from distill.text.think import CLOSE, OPEN
from distill.text.turn import StudentText, check_template, completion_text, end_of_turn, read_student, render_completion
from tests.templates import speaker
from tests.tiny import tiny_tokenizer

QUESTION = (Message("user", "What is 6*7?"),)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLOSED = f"{CHATML}{{% if add_generation_prompt %}}<think>\n\n</think>\n\n{{% endif %}}"


def a_trace(reasoning: str | None, answer: str = "42.", **changes: Any) -> Trace:
    return Trace(
        **{"key": "a" * 64, "problem_id": "b" * 32, "messages": QUESTION, "reasoning": reasoning, "answer": answer}
        | changes
    )


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentText:
    return read_student(speaker(tmp_path_factory.mktemp("chatml") / "m", CHATML))


# What a text holds must not become a control token


@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_start|>", "<|end|>", "<|begin|>", "<|pad|>"])
def test_a_special_tokens_name_in_a_text_is_text(student: StudentText, name: str) -> None:
    ids = student.encode(f"it ends with {name}\n{CLOSE}\n\n{name}")
    assert student.decode(ids) == f"it ends with {name}\n{CLOSE}\n\n{name}"
    assert student.control_ids.isdisjoint(ids)
    assert ids.count(student.close_id) == 1
    assert set(student.tokenizer(name, add_special_tokens=False)["input_ids"]) & student.control_ids  # seen to matter


def test_a_control_token_that_is_not_flagged_as_special_is_one_all_the_same(tmp_path: Path) -> None:
    folder = speaker(tmp_path / "m", CHATML)
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = token["special"] and "im_" not in token["content"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about.pop("extra_special_tokens", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    text = read_student(folder)
    marks = {text.tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>")}
    assert not any(text.tokenizer.added_tokens_decoder[mark].special for mark in marks)
    assert marks <= text.control_ids
    assert text.end_ids == (text.tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert marks.isdisjoint(text.encode("a<|im_start|>b<|im_end|>c"))


def test_text_without_control_tokens_is_read_as_the_tokenizer_reads_it(student: StudentText) -> None:
    text = "17*20=340\n17*3=51\n</think>\n\nThe answer is \\boxed{391}."
    assert student.encode(text) == student.tokenizer(text, add_special_tokens=False)["input_ids"]


ODD = st.text(
    st.sampled_from("abz019 \n\t\r.,*\\{}<>|/\u4f60\u597d\ud55c\u00e9\u200d\u00a0\ufeff\U0001f600\U0001f469"),
    max_size=40,
)
PIECES = st.lists(st.one_of(ODD, st.sampled_from(["<|im_end|>", "<|im_start|>", "</s>", "<|end|>", "\n\n", "<thin"])))


@given(PIECES, PIECES, st.booleans())
@example(["\n"], ["\n"], True)
@example([], ["  "], False)
@example(["<|im_end|>"], ["<|im_end|>"], True)
@example(["e\u0301 \U0001f469\u200d\U0001f52c"], ["\u4f60"], False)
def test_render_and_decode_give_any_text_back(student: StudentText, thought: list[str], said: list[str], opened: bool):
    reasoning, answer = "".join(thought), "".join(said)
    trace = a_trace(reasoning, answer)
    prompt = replace(render_prompt(student.tokenizer, QUESTION), opened=opened)

    ids = render_completion(trace, prompt, student, thinks=True)

    assert tuple(ids[-len(student.end_ids) :]) == student.end_ids
    assert student.control_ids.isdisjoint(ids[: -len(student.end_ids)])
    text = student.decode(ids[: -len(student.end_ids)])
    assert text == completion_text(trace, opened=opened, prefilled=False, thinks=True)
    before, close, after = text.partition(CLOSE)
    assert close and before.startswith("" if opened else f"{OPEN}\n")
    assert reasoning in before and answer in after


# Where thinking opens, whatever else a template does


@pytest.mark.parametrize(
    ("template", "tail", "opened"),
    [
        # ignores add_generation_prompt, and always begins the answer
        ("{% for m in messages %}<|User|>{{ m.content }}{% endfor %}{{ '<|Assistant|><think>\n' }}", "<think>\n", True),
        # writes something else where no answer is asked for, so that one prompt is no prefix of the other
        (
            "{% for m in messages %}<|User|>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|Assistant|><think>\n{% else %}<|end|>{% endif %}",
            "<think>\n",
            True,
        ),
        # trims what the user says
        (
            "{% for m in messages %}<|User|>{{ m.content | trim }}{% endfor %}"
            "{% if add_generation_prompt %}<|Assistant|><think>{% endif %}",
            "<think>",
            True,
        ),
        # opens only when it is told to
        (
            f"{CHATML}{{% if add_generation_prompt and enable_thinking is defined and enable_thinking %}}"
            "<think>\n{% endif %}",
            "<think>\n",
            True,
        ),
        # DeepSeek-V3.1 calls the argument `thinking`
        (
            "{% for m in messages %}<|User|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|Assistant|>"
            "{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}{% endif %}",
            "<think>",
            True,
        ),
    ],
)
@pytest.mark.parametrize(
    "question", ["Hi", "What is <think>?", "<think> and </think>", "0", "1", "ends with <think>\n"]
)
def test_the_prefill_is_found(tmp_path: Path, template: str, tail: str, opened: bool, question: str) -> None:
    tokenizer = tiny_tokenizer(tmp_path, template=template)
    text, start, found = render_text(tokenizer, (Message("user", question),), True)
    assert (text[start:], found) == (tail, opened)
    prompt = render_prompt(tokenizer, (Message("user", question),), True)
    assert tokenizer.decode(prompt.prefill_ids) == tail


def test_todays_date_is_the_same_every_day(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b %Y, %-d/%-m, %H:%M:%S %A %B %j') }}: {{ messages[0].content }}"
    tokenizer = tiny_tokenizer(tmp_path, template=template)
    expected = "26 Jul 2024, 26/7, 00:00:00 Friday July 208: What is 6*7?"
    assert TEMPLATE_DATE.strftime("%d %b %Y") == "26 Jul 2024"
    assert apply_template(tokenizer, QUESTION) == expected
    tokenizer.chat_template = dated(template)  # as it is written with a student: without us
    turns = [{"role": "user", "content": "What is 6*7?"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == expected
    assert dated(dated(template)) == dated(template) and dated(CHATML) == CHATML


# What ends a turn

USER = "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
REST = "{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, ["<|im_end|>"]),
        (f"{USER}{{{{ m.content }}}}{{{{ eos_token }}}}{REST}", ["<|end|>"]),
        # a line break before the end
        (f"{USER}{{{{ m.content }}}}\n<|stop|>{REST}", ["<|stop|>"]),
        # the answer is closed first, then the turn
        (f"{USER}{{{{ m.content }}}}<|close|><|turn_end|>{REST}", ["<|close|>", "<|turn_end|>"]),
        # EOS stands behind the last turn only (Phi-3), glued to it: the turn ends before
        (f"{USER}{{{{ m.content }}}}<|stop|>{REST}<|extra|>", ["<|stop|>"]),
        # nothing but the next turn's header, which is no stop token: EOS
        (f"{USER}{{{{ m.content }}}}{REST}", ["<|end|>"]),
        # text markers are no tokens: EOS
        (f"{USER}{{{{ m.content }}}} ### End{REST}", ["<|end|>"]),
        # renders no answers at all: EOS
        (
            "{% for m in messages %}{{ m.content if m.role == 'user' else raise_exception('no') }}{% endfor %}",
            ["<|end|>"],
        ),
    ],
)
def test_what_ends_a_turn(tmp_path: Path, template: str, ends: list[str]) -> None:
    text = read_student(speaker(tmp_path / "m", template))
    assert text.tokenizer.convert_ids_to_tokens(text.end_ids) == ends
    assert text.end_id in text.stop_ids
    ids = render_completion(a_trace("x"), render_prompt(text.tokenizer, QUESTION), text, thinks=True)
    assert tuple(ids[-len(ends) :]) == text.end_ids


def test_a_header_that_the_model_is_known_to_stop_at_ends_the_turn(tmp_path: Path) -> None:
    """GLM-4.5 writes nothing after an answer; its generation config stops at the next turn's header."""
    tokenizer = tiny_tokenizer(tmp_path, template=f"{USER}{{{{ m.content }}}}{REST}")
    user = tokenizer.convert_tokens_to_ids("<|User|>")
    assert end_of_turn(tokenizer, {user, tokenizer.eos_token_id}) == (user,)
    assert end_of_turn(tokenizer, {tokenizer.eos_token_id}) == (tokenizer.eos_token_id,)


def test_nothing_that_ends_a_turn_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path, template=f"{USER}{{{{ m.content }}}}{REST}")
    tokenizer.eos_token = None
    with pytest.raises(DistillError, match="token that ends a turn"):
        end_of_turn(tokenizer)


# Templates that allow no sound row say why


@pytest.mark.parametrize(
    ("template", "roles", "thinks", "why"),
    [
        # a header of its own before an answer (harmony's channels)
        (f"{USER}<|channel|>final{{{{ m.content }}}}{REST}", ["user"], True, "channel.*in a whole chat"),
        # no generation prompt: the model would have to write the assistant's header itself
        (CHATML.partition("{% if add")[0], ["user"], True, "im_start.*assistant.*in a whole chat"),
        # thinking closed whatever one asks for
        (CLOSED, ["user"], True, "closes the think"),
        # content as a list of parts
        (
            "{% for m in messages %}{% for c in m.content %}{{ c.text if c.type == 'text' }}{% endfor %}{% endfor %}",
            ["user"], True, "leaves out what the user says",
        ),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            ["system", "user"], True, "leaves out what the system says",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x",
            ["system", "user"], True, "System role not supported",
        ),
        ("{{ messages[0].content | upper }}", ["user"], True, "leaves out"),
        ("{{ messages[0].content + 1 }}", ["user"], True, "refuses the messages"),
        ("{% for %}", ["user"], True, "refuses the messages"),
        ("{% for i in range(999999999) %}x{% endfor %}", ["user"], True, "Range too big"),
    ],
)  # fmt: skip
def test_a_template_that_allows_no_sound_row_is_refused_in_one_line(
    tmp_path: Path, template: str, roles: list[str], thinks: bool, why: str
) -> None:
    tokenizer = tiny_tokenizer(tmp_path, template=template)
    with pytest.raises(DistillError, match=why) as caught:
        check_template(tokenizer, roles, thinks=thinks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("roles", [["user"], ["system", "user"], ["user", "assistant", "user"]])
@pytest.mark.parametrize("thinks", [True, False])
def test_plain_templates_pass(tmp_path: Path, roles: list[str], thinks: bool) -> None:
    check_template(tiny_tokenizer(tmp_path, template=CHATML), roles, thinks=thinks)


def test_a_closed_block_is_fine_for_a_row_without_reasoning(tmp_path: Path) -> None:
    check_template(tiny_tokenizer(tmp_path, template=CLOSED), ["user"], thinks=False)
