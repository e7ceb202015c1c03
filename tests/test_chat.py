"""A conversation: what is shown, what is kept of it, and how it ends."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill import chat
from distill.core.errors import DistillError
from distill.core.records import Message, Sampling


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Parrot:
    """An engine that thinks in small pieces and answers with the number of turns it has seen."""

    def __init__(self, room: int = 100, interrupt_after: int | None = None) -> None:
        self.asked: list[tuple[Message, ...]] = []
        self.samplings: list[Sampling] = []
        self._room, self._interrupt_after = room, interrupt_after

    def room(self, messages: Sequence[Message]) -> int:
        return self._room if messages else 0

    def stream(self, messages: Sequence[Message], sampling: Sampling, key: str) -> Iterator[str]:
        assert key
        self.asked.append(tuple(messages))
        self.samplings.append(sampling)
        for n, piece in enumerate(["<think>\n", "let ", "me see", "</th", "ink>", f"\n\n{len(messages)} turns"]):
            if n == self._interrupt_after:
                raise KeyboardInterrupt
            yield piece


def talk(engine: Any, *lines: str, out: io.StringIO | None = None, **settings: Any) -> str:
    out = out or io.StringIO()
    chat.talk(engine, lines, out, **{"temperature": 0.6, "max_tokens": None, **settings})
    return out.getvalue()


def test_thinking_is_dimmed_and_its_tags_hidden_on_a_terminal():
    shown = talk(Parrot(), "hello", out=Terminal())

    assert shown == f"{chat.DIM}\nlet me see{chat.PLAIN}\n\n1 turns{chat.PLAIN}\n"


def test_a_pipe_gets_the_text_as_it_is():
    assert talk(Parrot(), "hello") == "<think>\nlet me see</think>\n\n1 turns\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_tags_in_any_pieces_are_found(size):
    text = "a < b <think>x </thin y</think>2<3 <thin"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    shown = "".join(chat.styled(pieces, dim=True))

    assert shown == f"a < b {chat.DIM}x </thin y{chat.PLAIN}2<3 <thin{chat.PLAIN}"


def test_the_conversation_keeps_answers_without_thinking():
    engine = Parrot()

    talk(engine, "one", "", "two", "/new", "three", "/exit", "never")

    assert [[m.content for m in asked] for asked in engine.asked] == [["one"], ["one", "1 turns", "two"], ["three"]]
    assert engine.asked[1][1].role == "assistant"


def test_an_interrupted_answer_is_not_part_of_the_conversation():
    engine = Parrot(interrupt_after=3)

    talk(engine, "one")
    engine._interrupt_after = None
    talk(engine, "two")

    assert [m.content for m in engine.asked[1]] == ["two"]


def test_an_answer_may_fill_what_is_left_of_the_context():
    engine = Parrot(room=77)

    talk(engine, "one")
    talk(engine, "one", max_tokens=10)
    talk(engine, "one", max_tokens=1000)

    assert [sampling.max_tokens for sampling in engine.samplings] == [77, 10, 77]


def test_a_full_context_is_said(capsys):
    engine = Parrot(room=0)

    talk(engine, "one")

    assert engine.asked == []
    assert "/new starts over" in capsys.readouterr().err


def test_an_error_of_the_engine_is_one_line_and_the_talk_goes_on(capsys):
    class Refusing(Parrot):
        def room(self, messages: Sequence[Message]) -> int:
            raise DistillError(f"the template refuses {messages[-1].content}")

    talk(Refusing(), "one", "two")

    assert capsys.readouterr().err == "the template refuses one\nthe template refuses two\n"


@pytest.mark.parametrize("kind", ["folder", "gguf", "run"])
def test_every_kind_of_target_answers(kind, tiny_model, tmp_path, monkeypatch, capsys):
    target: Path = tiny_model
    if kind == "gguf":
        from distill.gguf.convert import convert

        target = tmp_path / "tiny.gguf"
        convert(tiny_model, target, "f16")
    if kind == "run":
        from distill.core import rundir

        target = tmp_path / "run"
        target.mkdir()
        (target / rundir.INDEX).write_text("{}")
        monkeypatch.setattr(rundir, "student_of", {target: tiny_model}.__getitem__)
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 17*23?\n"))

    chat.chat(str(target), temperature=0.0, max_tokens=6)

    assert capsys.readouterr().out.startswith("<think>\n")


def test_a_target_that_is_not_there_is_one_line():
    with pytest.raises(DistillError, match="no such folder or file"):
        chat.chat("./nowhere")
