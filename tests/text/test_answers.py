"""Finding the final answer: which mark wins, and linear time on texts made to be slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.answers import Found, boxes, depth, extract, gold_answer, gold_fault, named_option, option_of


@pytest.mark.parametrize(
    ("text", "answer", "mark"),
    [
        (r"So \boxed{7}.", "7", "box"),
        (r"\boxed{1}, no: \boxed{2}", "2", "box"),
        (r"\boxed{2}, \boxed{3}", "2, 3", "box"),
        (r"\boxed{A} or \boxed{B} or \boxed{C}", "A, B, C", "box"),
        (r"$\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}$", "(2, 2), (6, 2)", "box"),
        (r"$y_1 = \boxed{3}$ and $y_2 = \boxed{4}$", "3, 4", "box"),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}", "box"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "box"),
        (r"\boxed{\boxed{5}}", "5", "box"),
        (r"\boxed{\boxed{\boxed{5}}}", "5", "box"),
        (r"\boxed{6} so \boxed{7}, \boxed{7}", "7", "box"),
        ("la réponse est 12 cm.", "12 cm", "words"),
        ("所以答案是 12。", "12", "words"),
        ("Die Antwort lautet 7.", "7", "words"),
        ("It costs $5 more than the $7 one", "7", "last"),
        ("how many $? just about 1$", "1", "last"),
        (r"\boxed 5", "5", "box"),
        (r"the set {1, 2 then \boxed{6} {", "6", "box"),
        (r"$\boxed{28}$ percent", "28%", "box"),
        (r"\boxed{}", "", "box"),
        (r"Answer: \boxed{39", "", "box"),
        ("Step one.\n#### 1,234", "1,234", "hashes"),
        (r"#### 5 is wrong: \boxed{6}", "6", "box"),
        ("A: 18", "18", "words"),
        ("the answer is 3 and 5.", "3 and 5", "words"),
        ("the answer is 5 cm because 3+2", "5 cm", "words"),
        ("The answer is 35 + 70 = 105.", "105", "words"),
        ("**Answer:** 7", "7", "words"),
        ("**Final Answer**\n\n\\[ 12 \\]", "\\[ 12 \\]", "words"),
        ("Final Answer: The largest $n$ is 34. I hope it is correct.", "34", "words"),
        (r"The final answer is $\left( \frac15, 6. 5 \right)$. I hope", r"$\left( \frac15, 6. 5 \right)$", "words"),
        ("the correct answer is C", "C", "words"),
        ("The answer is 4. No: the answer is 5.", "5", "words"),
        ("x^2 + 2*x + 1", "x^2 + 2*x + 1", "whole"),
        (r"$x \ge 5$", r"$x \ge 5$", "whole"),
        ("196 has **9** positive divisors", "9", "last"),
        (r"Therefore $x \geq 5$ is the solution.", r"$x \geq 5$", "last"),
        ("计划的比例为13/28", "13/28", "last"),
        ("the area is 1,000.99m² here", "1,000.99m^{2}", "last"),
    ],
)  # fmt: skip
def test_finds_the_answer(text: str, answer: str, mark: str):
    assert extract(text) == Found(answer, mark)  # type: ignore[arg-type]  # a parameter of the table


@pytest.mark.parametrize("text", ["", "I give up.", "no digits here", "\\boxed"])
def test_finds_nothing_where_there_is_nothing(text: str):
    assert extract(text) is None


def test_without_a_mark_nothing_is_found_where_the_setting_refuses():
    assert extract("196 has 9 divisors", unmarked=False) is None
    assert extract("answer: 9", unmarked=False) == Found("9", "words")


@given(st.text(alphabet="ab{} \\", max_size=40).filter(lambda s: "boxed" not in s), st.integers())
def test_a_closed_box_at_the_end_is_always_the_answer(before: str, number: int):
    found = extract(f"{before.rstrip(chr(92))} then \\boxed{{{number}}}")

    assert found is not None
    assert found.text == str(number)


@given(st.text(max_size=200))
def test_never_raises(text: str):
    extract(text)
    boxes(text)
    gold_fault(text)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 200_000,
        "\\boxed{" * 50_000,
        "\\boxed{" * 20_000 + "}" * 20_000,
        "$" * 200_000,
        "$a" * 100_000,
        "$$a" * 60_000,
        "\\[" * 100_000,
        "\\(" * 100_000,
        "\\" * 200_000,
        "answer is " * 20_000,
        "answer " * 30_000,
        "1" * 200_000,
        "1," * 100_000,
        "\n" * 200_000,
        " \\text{and " * 20_000,
        "\\boxed{" + "{" * 100_000 + "5" + "}" * 100_000 + "}",
    ],
    ids=lambda text: text[:12],
)
def test_texts_made_to_be_slow_take_linear_time(text: str):
    start_s = time.process_time()

    extract(text)

    assert time.process_time() - start_s < 2.0  # a quadratic scan of 200,000 characters takes minutes


@pytest.mark.parametrize(
    ("gold", "fault"),
    [
        (None, "no gold answer"),
        ("", "no gold answer"),
        ("  ", "no gold answer"),
        (r"\boxed{}", "no gold answer"),
        ("see figure", "gold is no answer"),
        ("See the diagram above.", "gold is no answer"),
        (r"\text{Answers may vary}", "gold is no answer"),
        ("N/A", "gold is no answer"),
        ("$?$", "gold is no answer"),
        (r"\frac{1}{", "gold is broken LaTeX"),
        ("7" * 3000, "gold is too long"),
        ("72", None),
        (r"\text{Evelyn}", None),
        (r"\text{none}", None),
        (r"\{1, 2\}", None),
        ("0", None),
    ],
)
def test_a_gold_that_is_no_answer_is_named(gold: str | None, fault: str | None):
    assert gold_fault(gold) == fault


def test_the_gold_of_a_worked_solution_is_its_answer():
    assert gold_answer("48/2 = 24, 48 + 24 = 72\n#### 72") == "72"
    assert gold_answer(r"Therefore $\boxed{14{,}916}$ is our answer.") == "14{,}916"
    assert gold_answer("She sells 16 - 3 - 4 = 9.\nShe makes 9 * 2 = $18.\nA: 18") == "18"
    assert gold_answer("72") == "72"
    assert gold_answer("x = 1\ny = 2") == "x = 1\ny = 2"


def test_depth_counts_open_brackets():
    assert depth("({[x]})") == 3
    assert depth("()()") == 1


@pytest.mark.parametrize(
    ("gold", "option"),
    [
        ("C", ("C", "")), ("(C)", ("C", "")), ("(c)", ("C", "")), (r"\text{(C)}", ("C", "")), ("C.", ("C", "")),
        ("C Cecile", ("C", "Cecile")), ("(C) 12", ("C", "12")), ("C. Paris", ("C", "Paris")),
        ("A Peter\nCelina", ("A", "Peter\nCelina")), ("A circle", None), ("A:B=1", None), (r"A \cup B", None),
        ("A. B. C.", None), ("x", None), ("K", None), ("12", None), ("Cecile", None), ("C = 5", None),
    ],
)  # fmt: skip
def test_a_gold_that_names_an_option(gold: str, option: tuple[str, str] | None):
    assert option_of(gold) == option


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("thinking about it I think the correct answer is C", "C"),
        ("It's not A because it doesn't make sense, therefore I think it's B", "B"),
        ("réponse est C non A", "C"),
        ("答案是C", "C"),
        ("The answer is not A but D.", "D"),
        ("The answer is A or B or C.", "A, B, C"),
        ("The answer is C because A and B fail.", "C"),
        ("A man walks. I give up.", None),
        ("**D**", "D"),
        ("no letters", None),
    ],
)
def test_the_option_that_a_text_settles_on(text: str, letter: str | None):
    assert named_option(text) == letter
