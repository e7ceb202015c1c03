"""Hidden tests as JSON: what is written is read again, and what cannot be run says why."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.code_tests import Call, CallTests, CodeTests, Exchange, FunctionTests, StdioTests, dump, parse
from distill.text.code_tests import tests_fault as fault_of_tests  # pytest would take it for a test

texts = st.text(max_size=20)
sources = texts.filter(str.strip)
values = st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner, max_size=3))
tests: st.SearchStrategy[CodeTests] = st.one_of(
    st.builds(FunctionTests, st.none() | st.just("f"), st.lists(sources, min_size=1).map(tuple), texts, texts),
    st.builds(CallTests, st.just("Solution.f"), st.lists(
        st.builds(Call, st.lists(values, max_size=3).map(tuple), values), min_size=1, max_size=3).map(tuple)),
    st.builds(StdioTests, st.lists(st.builds(Exchange, texts, texts), min_size=1, max_size=3).map(tuple)),
)  # fmt: skip


@given(tests)
def test_what_is_dumped_is_parsed_again(made: CodeTests):
    assert parse(dump(made)) == made


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('"function"', "no known `style`"),
        ('{"style": "unit"}', "no known `style`"),
        ('{"style": "stdio"}', "no `cases`"),
        ('{"style": "stdio", "cases": []}', "no cases"),
        ('{"style": "stdio", "cases": [{"input": "1"}]}', "case 0 is not an object"),
        ('{"style": "stdio", "cases": [{"input": "1", "output": 2}]}', "are texts"),
        ('{"style": "stdio", "cases": [{"input": "1", "output": "2"}], "timeout": 3}', "unknown `timeout`"),
        ('{"style": "function", "entry_point": "f", "tests": []}', "list of Python sources"),
        ('{"style": "function", "entry_point": "f()", "tests": ["x"]}', "is no name"),
        ('{"style": "call", "entry_point": "f", "cases": [{"input": 1, "output": 2}]}', "list of its arguments"),
        ('{"style": "call", "entry_point": null, "cases": [{"input": [], "output": 2}]}', "is no name"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text: str, why: str):
    with pytest.raises(ValueError, match=why):
        parse(text)
    assert str(fault_of_tests(text)).startswith("tests cannot be used: ")


def test_faults_are_found_without_running_anything(tmp_path):
    planted = tmp_path / "planted"
    harmful = f"open({str(planted)!r}, 'w')"

    assert fault_of_tests(None) == "no tests"
    assert fault_of_tests(dump(FunctionTests("f", (harmful,)))) is None
    assert fault_of_tests(dump(FunctionTests("f", ("assert f(1) ==",)))) == "tests are no Python (SyntaxError)"
    assert fault_of_tests(dump(FunctionTests("f", ("pass",), setup="import"))) == "tests are no Python (SyntaxError)"
    assert fault_of_tests(json.dumps({"style": "function", "entry_point": None, "tests": ["x\0"]})) is not None
    assert not planted.exists()
