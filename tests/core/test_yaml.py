"""YAML with positions, strict about what it accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core import yaml
from distill.core.errors import ConfigError


def test_every_value_knows_its_line() -> None:
    document = yaml.parse("a: 1\nb:\n  c: [x, {d: 2.5}]\n", "f.yaml")

    assert document.data == {"a": 1, "b": {"c": ["x", {"d": 2.5}]}}
    assert str(document.where(("b", "c", 1, "d"))) == "f.yaml:3"
    assert str(document.where(("b", "c", 7))) == "f.yaml:3"  # unknown: the nearest thing around it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("2026-01-01", "2026-01-01"), ("1e-5", "1e-5"), ("1.0e-5", 1e-5), ("~", None),
        ("true", True), ("0x10", "0x10"), ("010", "010"), ("-3", -3), ("1_000", 1000), ("'5'", "5"), (".5", 0.5),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert yaml.parse(f"a: {text}\n", "f").data == {"a": value}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2\n", "f:2: `a` is given twice (first on line 1)"),
        ("", "f:1: the file is empty"),
        ("- 1\n", "f:1: an experiment is a mapping"),
        ("a: [1\n", "f:2: not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "f:1: the tag"),
        ("a: !!binary aGk=\n", "f:1: the tag"),
        ("a: &x [*x]\n", "f:1:"),
        ("? [1]\n: 2\n", "f:1: a key must be plain text"),
    ],
)
def test_what_is_not_a_plain_mapping_is_refused_with_its_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        yaml.parse(text, "f")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_multiplying_aliases_are_stopped() -> None:
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for level in range(1, 9):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    with pytest.raises(ConfigError, match="aliases that multiply"):
        yaml.parse(text, "f")


def test_merging_replaces_lists_and_keeps_the_marks_of_both() -> None:
    base = yaml.parse("a:\n  b: 1\n  c: [1, 2]\n", "base.yaml")
    over = yaml.parse("a:\n  c: [3]\n  d: 4\n", "over.yaml")

    merged = base.merged(over)

    assert merged.data == {"a": {"b": 1, "c": [3], "d": 4}}
    assert base.data == {"a": {"b": 1, "c": [1, 2]}}
    assert str(merged.where(("a", "b"))) == "base.yaml:2"
    assert str(merged.where(("a", "c", 0))) == "over.yaml:2"
    assert str(merged.where(("a", "c", 1))) == "over.yaml:2"


def test_an_assignment_is_a_document_of_its_own() -> None:
    document = yaml.assignment("train.learning_rate=1.0e-5")

    assert document.data == {"train": {"learning_rate": 1e-5}}
    assert str(document.where(("train", "learning_rate"))) == "--set train.learning_rate=1.0e-5"
    assert yaml.assignment("a.b=").data == {"a": {"b": None}}
    assert yaml.assignment("a.b=[1, {c: 2}]").data == {"a": {"b": [1, {"c": 2}]}}


@pytest.mark.parametrize("text", ["train.seed", "=1", "a..b=1", "a=[1"])
def test_a_malformed_assignment_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        yaml.assignment(text)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        yaml.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        yaml.load(tmp_path)
