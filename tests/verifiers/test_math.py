"""The `math` verifier: the traps of grading, hostile answers, and agreement with labels on real data."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.core import jsonl
from distill.core.protocols import Answer, Finding
from distill.text.readings import read
from distill.text.think import split_think
from distill.verifiers import _symbolic
from distill.verifiers.math import Config, MathVerifier, build


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    """One verifier for the module: its workers start once."""
    built = build(Config(cpu_s=1.5, memory_mib=768))
    yield built
    built.close()


def boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


def grade_one(verifier: MathVerifier, text: str, gold: str | None, **about: Any) -> Finding:
    return verifier.grade([Answer(text, gold, **about)])[0]


RIGHT = [
    # numbers
    ("7", "7"), ("1000", "1{,}000"), ("1000", "1,000"), ("16", "016"), ("-5", "−5"), ("12", "１２"), ("42", "٤٢"),
    ("1/2", "1⁄2"), ("1/2", "½"), ("5", "5\u200b"), (r"\frac{1}{2}", "0.5"), ("1/3", "0.333333"), ("016", "16"),
    ("1000.99", "1000,99"), ("918\\frac{1}{2}", "918.5"), ("2.625", r"2\frac58"), ("1234567", r"1\,234\,567"),
    (r"\frac{1}{29,\!322,\!216}", r"1/29322216"), ("1e3", "1000"), (r"6.02 \times 10^{23}", "602000000000000000000000"),
    (r"0.\overline{3}", "1/3"), (r"\frac{1}{6}", r"0.1\overline{6}"), (r"0.\dot{1}4285\dot{7}", r"\frac17"),
    ("0.(36)", "4/11"), (r"\frac{70}{9} \approx 7.78", r"\frac{70}{9}"),
    (r"\frac{\sqrt3}{3}", r"\frac{\sqrt{3}}{3} \approx 0.577"),
    ("0.139", r"\frac{5}{36} \approx 0.139"), ("0.577", r"\frac{\sqrt3}{3} \approx 0.577"),
    (r"\frac{70}{9} \approx 7.78", "7.78"),
    # percent, units, money
    (r"10\%", "0.1"), (r"10\%", "10 percent"), ("5 cm", "5"), ("5", "5 cm"), ("5", "5m"),
    (r"15\mbox{ cm}^2", "15 cm^2"),
    (r"90^\circ", "90"), (r"90^\circ", "90 degrees"), (r"\$10", "10"), (r"\$10", "10 dollars"),
    ("20 square feet", r"20\text{ ft}^2"),
    ("3 m and 5 m", r"5\text{ m}, 3\text{ m}"), ("255", "255_{10}"),
    (r"3 \times 10^8", r"3\times 10^8 \mathrm{~m} / \mathrm{s}"), ("60 mph", "60 miles per hour"),
    (r"5\text{ m/s}^2", r"5 \mathrm{~m/s}^{2}"),
    ("€5", "5 euros"), ("3:30", "3:30 pm"), ("1234567", "1.234.567"),
    # expressions
    ("x^2", "x²"), (r"\sqrt{2}", "1.414214"), (r"2\sqrt{2}", r"\sqrt{8}"), ("2^{10}", "1024"), ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), (r"\frac\pi 2", r"\dfrac{\pi}{2}"), ("x**2", "x^2"),
    (r"\sin^2 t", r"(\sin t)^2"),
    ("a+b+c", "c+b+a"), ("A - B", "A-B"), ("a - b", "-b + a"), ("sin(x)", r"\sin{x}"), (r"\log_2 8", "3"),
    (r"e^{i\pi}", "-1"), ("2i+3", "3+2i"),
    (r"x^{1/2}", r"\sqrt{x}"),
    (r"\frac{v \left(\frac{r}{s + r}\right)^{0.5}}{s + r}", r"\frac{v}{r} \frac{1}{(1+s/r)^{3/2}}"), ("5!", "120"),
    (r"\binom{5}{2}", "10"), ("x^\\frac12", r"\sqrt x"), (r"(-1)^n", r"(-1)^{n+2}"), (r"\tan 15^\circ", r"2-\sqrt{3}"),
    # several answers
    ("3,5", "5, 3"), ("1, 2", r"2 \text{ and } 1"), ("1 and 2", r"\{1, 2\}"), (r"\pm 3", "3, -3"),
    (r"1 \pm \sqrt2", r"1-\sqrt2, 1+\sqrt2"),
    (r"\{1, 2\}", r"\{2, 1, 1\}"), ("{1, 2}", "2, 1"), ("1,234, 5", "5, 1234"), ("100,200,300", "100, 200, 300"),
    ("(1,2), (3,4)", "(3,4), (1,2), (3,4)"), ("1; 2", "1, 2"), (r"\text{A, C}", "C and A"),
    # tuples, intervals, unions, matrices
    ("(1, 9/2)", "(1, 4.5)"), ("(1, 2)", "1, 2"), ("(1,2,3)", "[1,2,3]"), ("(1,2)", r"\langle 1, 2 \rangle"),
    ("[0,1)", "[0, 1.0)"),
    ("(0,1)", "]0,1["), (r"(-\infty, 1) \cup (2, \infty)", r"(2, \infty) \cup (-\infty, 1)"),
    (r"[0,1] \cup [1,2]", "[0,2]"),
    (r"(-\infty,1)\cup(1,\infty)", r"\mathbb{R} \setminus \{1\}"), (r"(-\infty, \infty)", r"\mathbb{R}"),
    (r"[1/2, \infty)", r"x \in [0.5, \infty)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
    (r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}", r"\left[\begin{array}{cc}1 & 2 \\ 3 & 8/2\end{array}\right]"),
    # names, equations, inequalities
    ("x=5", "5"), ("5", "x=5"), ("x=1, y=2", "y = 2, x = 1"), ("x=1, y=2", "(1, 2)"), ("1, 2", "x = 1, y = 2"),
    ("x = 1, 2", "x = 2, x = 1"), ("p=5, q=2; p=7, q=2", r"(p, q) = (7, 2), (5, 2)"), (r"x \in \{1, 2\}", "1, 2"),
    ("(x,y) = (1,2)", "(1,2)"),
    ("81", "(x+y)^2 = 81"), ("5", "2 + 3 = 5"), (r"\angle ABC = 30^\circ", "30"), ("1/2", r"\cos A = \frac12"),
    ("2x", "f^{-1}(x) = 2x"), ("4", "f'(2) = 4"), ("y = 2x + 3", "f(x) = 2x + 3"), ("y=2x", "2x - y = 0"),
    ("x = 5", r"2x = 10 \implies x = 5"), ("x^2+y^2=25", "y^2 = 25 - x^2"), (r"xy = 1", r"y = \frac{1}{x}"),
    ("x < 1", "-x > -1"), ("x >= 5", r"x \geqslant 5"),
    (r"0 \le x < 1", "[0,1)"), ("1 < x < 2", "2 > x > 1"), (r"-1 < x < 1", r"x \in (-1, 1)"),
    (r"x \ne 1", r"(-\infty,1) \cup (1,\infty)"), (r"\{x : x > 5\}", "x > 5"),
    (r"x < 1 \text{ or } x > 2", r"x > 2 \text{ or } x < 1"),
    # words and options
    (r"\text{Even}", "even"), ("C", r"\text{(C)}"), ("A", "\u0410"), ("C Cecile", "C"), ("(C) 12", "12"),
    ("(C) 12", "C"), ("C", "C. Cecile"), ("B", "(b)"),
    (r"\text{June 20}", "June 20"), ("Alice", r"\textbf{Alice}"),
]  # fmt: skip

WRONG = [
    # numbers
    ("7", "8"), ("1/2^{99}", "1/2^{98}"), (r"\frac{1}{2004!}", r"\frac{1}{2006!}"), ("10^{50}", "10^{50}+1"),
    ("12345", "12346"),
    ("1" + "0" * 50, "1" + "0" * 49 + "1"), ("(1/2^{99}, 3)", "(1/2^{98}, 3)"), ("x/2^{99}", "x/2^{98}"),
    ("x + 1/2004!", "x + 1/2006!"), ("x + x/2004!", "x + x/2006!"),
    ("0.000000001", "0.000000002"), (r"6+\sqrt{10^{-40}}", "6"), ("1/3", "0.33"), ("1/3", "0.3333"),
    (r"\sqrt{2}", "1.41"), ("1,234", "1.234"),
    (r"0.\overline{3}", "0.3"), ("5", "50"), ("5", "-5"), (r"2\frac58", r"\frac{2 \cdot 5}{8}"),
    ("7", r"5 \approx 7"), ("0.14", r"\frac{5}{36} \approx 0.2"), ("0.58", r"\frac{\sqrt3}{2} \approx 0.58"),
    # percent, units, bases
    (r"10\%", "10"), ("10", r"10\%"), ("5 cm", "5 m"), ("5 cm", "5 cm^2"), ("100 cm", "1 m"), (r"90^\circ", "90 cm"),
    ("1112112_3", "1112112_4"),
    ("-37_8", "-37_9"), ("5 m/s", "5 km/h"), ("€5", r"\$5"), ("3:30 am", "3:30 pm"), ("1:10", "2:20"), ("5x/y", "5"),
    ("5t", "5"), ("5", "5x"),
    # expressions
    ("x^2", "x^3"), ("x+1", "y+1"), ("a+b", "a+b+c"), ("R-r", "r-R"), ("R - r", "r - R"), ("A - B", "B - A"),
    (r"\pi R^2", r"\pi r^2"),
    (r"25\pi\text{ cm}", r"25\pi cm^2"), ("y'", "y"), ("|x|", "x"), (r"\sqrt{x^2}", "x"),
    (r"(-1)^n", "1"), (r"\sin(\pi n)", "0"), (r"\ln 2", r"\log 2"), ("2i", "2"), ("f(2)", "f(3)"),
    (r"\frac{x^2-1}{x-1}", "x-1"),
    # several answers
    ("3", "3 and 5"), ("3", "3, 5"), ("3", r"3 \text{ or } 5"), ("A", "A, B, C or D"), ("A", r"\text{A or B}"),
    ("3, 5", "3"), ("1,2,3", "1,2"),
    (r"75^\circ", r"75^\circ, 75^\circ"), ("1, 1, 2", "1, 2, 2"), ("1, 2", "1, 2, 2"), (r"\pm 3", "3"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    # tuples, sets, intervals, matrices
    (r"\{1,2\}", "(1,2)"), ("(1,2)", r"\{1,2\}"), ("(1,2)", "(2,1)"), ("(1,2)", "2, 1"), ("[1,2]", "(1,2)"),
    ("[1,2]", "1, 2"), ("[0,1)", "[0,1]"),
    ("(1,2,3)", "(1,2)"), ("[1,2,3]", "[1,2,3)"), (r"(0,1) \cup (1,2)", "(0,2)"),
    (r"\mathbb{R}", r"\mathbb{R} \setminus \{0\}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
    ("((1,2),3)", "(1,(2,3))"),
    # names, equations, inequalities
    ("x=5", "y=5"), ("x=1, y=2", "x=2, y=1"), ("x=1, y=2", "(2, 1)"), ("4", "2x = 4"), ("4", "x^2 = 4"),
    ("7 = 11a+c", "11a+c"), ("a + 3z = 0", "0"),
    ("y=2x", "y=3x"), ("x^2 = 4", "x = 2"), ("x^2+1=0", "x^2+2=0"), ("1 = 1", "2 = 2"), ("y = 2x+3", "f(x) = 2x+4"),
    ("x < 1", r"x \le 1"), ("x < 1", "x > 1"), ("x < 1", "-x < -1"),
    ("[0,1)", r"0 \le x < 1"), (r"0 \le x < 1", "(0,1)"), ("x < 1", "(-1, 1)"), ("f(2) < f(1)", "f(1) < f(2)"),
    ("p=5, q=2; p=7, q=3", "p=5, q=3; p=7, q=2"),
    # words and options
    (r"\text{CBAD}", "ABCD"), ("ABC", "CBA"), (r"\text{Even}", r"\text{Odd}"), ("5", r"\text{five hundred}"),
    ("C Cecile", "A"), ("C Cecile", "C. Peter"),
    ("A", "(A) (B) (C)"), ("A:B=1", "A"), (r"A \cup B", "A"), ("A circle", "A"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "given"), RIGHT)
def test_equal_answers_are_correct(verifier: MathVerifier, gold: str, given: str):
    assert grade_one(verifier, boxed(given), gold).value == "correct"


@pytest.mark.parametrize(("gold", "given"), WRONG)
def test_different_answers_are_wrong(verifier: MathVerifier, gold: str, given: str):
    assert grade_one(verifier, boxed(given), gold).value == "wrong"


def _documented() -> list[tuple[str, str, bool]]:
    """(gold, answer, whether it is accepted): the examples in the policy table of the documentation."""
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
    table = page.partition("| policy | gold | accepts | not |")[2].partition("\n\n")[0]
    found = []
    for line in table.splitlines()[2:]:
        gold, accepts, refuses = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[2:5])
        found += [(gold[0], answer, True) for answer in accepts] + [(gold[0], answer, False) for answer in refuses]
    return found


def test_the_documented_policies_hold(verifier: MathVerifier):
    rows = _documented()

    findings = verifier.grade([Answer(boxed(given), gold) for gold, given, _ in rows])

    assert len(rows) > 70
    assert [row for row, found in zip(rows, findings, strict=True) if (found.value == "correct") != row[2]] == []


@pytest.mark.parametrize(
    ("gold", "given"),
    [("78", "7 8"), ("A", "A. B. C. D."), ("15", "7 8"), ("5", r"5\ldots"), ("5", "5 +"), ("5", "5 ) 3")],
)
def test_what_a_grammar_would_guess_at_is_unparseable(verifier: MathVerifier, gold: str, given: str):
    assert grade_one(verifier, boxed(given), gold).value == "unparseable"


def test_percent_can_be_ignored():
    lenient = build(Config(percent="ignore"))

    assert [grade_one(lenient, boxed(given), r"10\%").value for given in ("10", "0.1", "11")] == [
        "correct",
        "correct",
        "wrong",
    ]


def test_naming_every_option_in_its_own_box_is_wrong(verifier: MathVerifier):
    assert grade_one(verifier, r"\boxed{A} or \boxed{B} or \boxed{C}", "C").value == "wrong"


def test_a_look_alike_letter_is_flagged(verifier: MathVerifier):
    assert grade_one(verifier, boxed("\u0410"), "A").reason == "same text (U+0410 read as A)"


# what counts as an answer


@pytest.mark.parametrize(
    ("response", "value", "reason"),
    [
        (r"<think>so \boxed{7}</think>\boxed{8}", "wrong", "another number"),
        (r"<think>so \boxed{8}</think>\boxed{7}", "correct", "same text"),
        (r"so \boxed{7} </think> hence \boxed{8}", "wrong", "another number"),  # the template opened the block
        (r"<think>so \boxed{7}", "unparseable", "unfinished thinking"),
        (r"so it must be \boxed{7}", "unparseable", "unfinished thinking"),  # a declared thinker that never closes
        (r"<think>a</think>\boxed{7} <think>or not", "unparseable", "unfinished thinking"),
        ("<think>7</think>", "unparseable", "no answer"),
        (r"<think>7</think>\boxed{}", "unparseable", "empty box"),
        (r"<think>7</think>Answer: \boxed{7", "unparseable", "empty box"),
        ("<think>7</think>I do not know.", "unparseable", "no answer"),
        (r"<think>7</think>\boxed{\frac{7}{}}", "unparseable", "not readable as mathematics"),
    ],
)
def test_the_answer_is_read_from_the_final_part_only(verifier: MathVerifier, response: str, value: str, reason: str):
    split = split_think(response)

    finding = grade_one(verifier, split.answer, "7", closed=split.closed)

    assert (finding.value, finding.reason) == (value, reason)


def test_a_cut_answer_is_unparseable_even_with_a_box(verifier: MathVerifier):
    assert grade_one(verifier, boxed("7"), "7", finish_reason="length") == Finding("unparseable", "truncated")


@pytest.mark.parametrize("gold", [None, "", "see figure", r"\frac{1}{"])
def test_a_bad_gold_is_ungradable_whatever_was_answered(verifier: MathVerifier, gold: str | None):
    for answer in (Answer(boxed("7"), gold), Answer("", gold), Answer(boxed("7"), gold, finish_reason="length")):
        assert verifier.grade([answer])[0].value == "ungradable"


def test_an_extracted_answer_is_compared_as_it_is(verifier: MathVerifier):
    assert grade_one(verifier, "7", "7", extracted=True).value == "correct"
    assert grade_one(verifier, "the answer is 7", "7", extracted=True).value != "correct"


def test_a_stricter_setting_refuses_unmarked_answers():
    strict = build(Config(unmarked="refuse"))

    assert grade_one(strict, "It has 9 divisors.", "9").value == "unparseable"
    assert grade_one(strict, "The answer is 9.", "9").value == "correct"


# the fast path


def test_numbers_and_texts_start_no_worker():
    verifier = build(Config())

    verifier.grade([Answer(boxed("7"), "7"), Answer(boxed("8"), "7"), Answer(boxed("Tuesday"), "7"), Answer("", "7")])

    assert verifier.workers.alive == 0


def test_6000_short_answers_take_a_second_or_two():
    verifier = build(Config())
    answers = [Answer(f"17*20={n}\nAnswer: \\boxed{{{n * 7}}}", str(n * 7 + (n % 3 == 0))) for n in range(6000)]
    start_s = time.process_time()

    findings = verifier.grade(answers)

    assert time.process_time() - start_s < 2.0
    assert sum(finding.value == "correct" for finding in findings) == 4000


# answers that would hang, crash or run something


def test_a_power_tower_ends_and_the_answer_after_it_is_right():
    verifier = build(Config(cpu_s=0.5, memory_mib=768))
    tower, root = Answer(boxed("9^{9^{9^{9}}}"), "5"), Answer(boxed(r"\sqrt{8}"), r"2\sqrt{2}")

    findings = verifier.grade([tower, root, tower, root])

    assert findings[0] == Finding("unparseable", "comparison took over 0.5 s of CPU time", "9^{9^{9^{9}}}")
    assert [finding.value for finding in findings[1::2]] == ["correct", "correct"]
    assert verifier.workers.alive == 2
    verifier.close()
    assert verifier.workers.alive == 0


@pytest.mark.parametrize(
    "template",
    [
        "__import__('pathlib').Path('{path}').touch()",
        "open('{path}', 'w')",
        'open("{path}", "w")',
        '__import__("pathlib").Path("{path}").touch()',
        r"\text{{__import__('os').system('touch {path}')}}",
        "exec(\"open('{path}','w')\")+1",
        "(lambda: open('{path}', 'w'))()",
        "1+__import__('os').system('touch {path}')",
    ],
)
def test_model_text_is_never_run(verifier: MathVerifier, tmp_path: Path, template: str):
    path = tmp_path / "made"
    text = template.format(path=path)

    findings = verifier.grade([Answer(boxed(text), "x+1"), Answer(text, "x+1"), Answer(text, "x+1", extracted=True)])

    _symbolic._parse(text)  # as it stands, whatever cleaning would have made of it
    assert not path.exists()
    assert all(finding.value != "correct" for finding in findings)


def test_the_callers_timer_still_fires(verifier: MathVerifier):
    fired: list[bool] = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append(True))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        grade_one(verifier, boxed("x^2+1"), "x^2+2")
        time.sleep(0.4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert fired == [True]


# real data


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in jsonl.read(path)]


def _disagreements(verifier: MathVerifier, rows: list[tuple[Answer, bool]]) -> tuple[int, int]:
    """(false accepts, false rejects)."""
    findings = verifier.grade([answer for answer, _ in rows])
    accepts = sum(f.value == "correct" and not right for f, (_, right) in zip(findings, rows, strict=True))
    rejects = sum(f.value != "correct" and right for f, (_, right) in zip(findings, rows, strict=True))
    return accepts, rejects


def test_agrees_with_every_label_of_gsm8k_model_solutions(verifier: MathVerifier, shared_data: Path):
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    rows = [
        (Answer(row[model]["solution"], row["ground_truth"].rpartition("A:")[2].strip()), row[model]["is_correct"])
        for row in _rows(shared_data / "gsm8k_model_solutions" / "example_model_solutions.jsonl.gz")
        for model in models
    ]

    assert len(rows) == 2564
    assert _disagreements(verifier, rows) == (0, 0)


def test_agrees_with_every_label_of_qwen_math_samples(verifier: MathVerifier, shared_data: Path):
    rows = [
        (Answer(response, row["gt"]), bool(score))
        for row in _rows(shared_data / "qwen_math_samples" / "math_cot.jsonl.gz")
        for response, score in zip(row["response"], row["score"], strict=True)
    ]

    assert len(rows) == 328
    assert _disagreements(verifier, rows) == (0, 0)


def test_agrees_with_every_label_of_r1_traces(verifier: MathVerifier, shared_data: Path):
    rows = []
    for row in _rows(shared_data / "r1_math500_traces" / "traces.jsonl.gz"):
        split = split_think(row["full_response"])
        rows.append((Answer(split.answer, row["ground_truth"], closed=split.closed), row["checked_correct"]))

    assert len(rows) == 17
    assert _disagreements(verifier, rows) == (0, 0)


def test_accepts_no_wrong_pair_and_few_right_ones_are_missed(verifier: MathVerifier, shared_data: Path):
    rows = [
        (Answer("" if row["pred"] is None else str(row["pred"]), str(row["gold"])), bool(row["expected"]))
        for row in _rows(shared_data / "verdict_pairs" / "pairs.jsonl")
        if not row.get("label_note")
    ]
    accepts, rejects = _disagreements(verifier, rows)

    assert len(rows) == 170
    assert (accepts, rejects) == (0, 0)  # math-verify alone: (0, 9)


def test_box_policy_on_weak_models(verifier: MathVerifier, shared_data: Path):
    """The label demands a bare value in a box; a unit or an equation in it, or no box, is read here all the same."""
    rows = [
        (Answer(row["generation"], row["expected_answer"]), str(row["symbolic_correct"]) == "True")
        for row in _rows(shared_data / "nemo_math_outputs" / "outputs.jsonl.gz")
    ]

    assert _disagreements(verifier, rows) == (3, 0)


def test_accepts_no_solution_that_people_marked_wrong(verifier: MathVerifier, shared_data: Path):
    rows = [
        (Answer("\n".join(row["model_output_steps"]), str(row["ground_truth_answer"])), False)
        for row in _rows(shared_data / "mr_gsm8k_wrong" / "mr_gsm8k.jsonl.gz")
        if row["question_type"] in ("original", "reversed")
        and row["model_output_answer_correctness"] == "wrong"
        and read(str(row["ground_truth_answer"])).number is not None  # the others are no answers at all
    ]

    assert len(rows) > 200
    assert _disagreements(verifier, rows)[0] == 0
