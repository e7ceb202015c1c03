"""A conversation in the terminal with a student: its thinking dimmed, its answer plain.

Lines come from a terminal or from a pipe; to a pipe the text goes out as it is, tags included.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

from distill.core import rundir
from distill.core.errors import DistillError
from distill.core.models import resolve
from distill.core.records import Message, Sampling
from distill.core.stage import say
from distill.text.think import CLOSE, OPEN, split_think

HELP = "/new starts over, /exit or Ctrl-D leaves, Ctrl-C ends an answer"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def chat(target: str, *, temperature: float = 0.6, max_tokens: int | None = None) -> None:
    """Talk to the student of a run folder, to a model folder, or to a .gguf file, until the input ends.

    `max_tokens` None: an answer may fill the model's context. Raises DistillError if there is no such model.
    """
    model = model_of(target)
    say(f"loading {model}")
    engine = _engine(model)
    try:
        say(f"{target} on {engine.name}; {HELP}")
        talk(engine, _lines(sys.stdin), sys.stdout, temperature=temperature, max_tokens=max_tokens)
    finally:
        engine.close()


def model_of(target: str) -> Path:
    """The model that a target names: a run folder's student, a model folder, a .gguf file, or a model's name."""
    folder = Path(target).expanduser()
    return rundir.student_of(folder) if (folder / rundir.INDEX).exists() else resolve(target)


def _engine(model: Path) -> Any:
    from distill.engines import llamacpp, transformers

    if model.is_dir():
        return transformers.build(transformers.Config(slots=1), str(model))
    return llamacpp.build(llamacpp.Config(slots=1), str(model))


def talk(engine: Any, lines: Iterable[str], out: TextIO, *, temperature: float, max_tokens: int | None) -> None:
    """Answer one line after the other. A conversation that no longer fits the context is said, not cut."""
    said: list[Message] = []
    for line in lines:
        text = line.strip()
        if text in ("/exit", "/quit"):
            return
        if text == "/new":
            said.clear()
        elif text.startswith("/"):
            say(HELP)
        elif text:
            said.append(Message("user", text))
            answer = _answer(engine, said, out, temperature, max_tokens)
            if answer:
                said.append(Message("assistant", answer))
            else:
                said.pop()


def _answer(engine: Any, said: list[Message], out: TextIO, temperature: float, max_tokens: int | None) -> str:
    """Stream one answer; what of it belongs to the conversation: the final answer, without the thinking."""
    pieces: list[str] = []
    try:
        room = engine.room(said)
        sampling = Sampling(temperature=temperature, max_tokens=room if max_tokens is None else min(max_tokens, room))
        if sampling.max_tokens < 1:
            say("the conversation fills the model's context; /new starts over")
            return ""
        with closing(engine.stream(said, sampling, key=secrets.token_hex(8))) as stream:
            for part in styled(_kept(stream, pieces), dim=out.isatty()):
                out.write(part)
                out.flush()
    except KeyboardInterrupt:
        out.write(PLAIN if out.isatty() else "")
    except DistillError as error:
        say(str(error))
    out.write("\n")
    out.flush()
    return split_think("".join(pieces), thinker=False).answer.strip()


def _kept(stream: Iterable[str], pieces: list[str]) -> Iterator[str]:
    for piece in stream:
        pieces.append(piece)
        yield piece


def styled(pieces: Iterable[str], *, dim: bool) -> Iterator[str]:
    """The pieces as shown: thinking dimmed and its tags hidden, or everything as it is where `dim` is False.

    A tag may come in several pieces; the start of one is held back until it is a tag or is not.
    """
    if not dim:
        yield from pieces
        return
    tag, held = OPEN, ""
    for piece in pieces:
        held += piece
        while tag in held:
            before, _, held = held.partition(tag)
            yield before + (DIM if tag == OPEN else PLAIN)
            tag = CLOSE if tag == OPEN else OPEN
        hidden = next((n for n in range(min(len(tag) - 1, len(held)), 0, -1) if tag.startswith(held[-n:])), 0)
        if ready := held[: len(held) - hidden]:
            yield ready
        held = held[len(held) - hidden :]
    yield held + PLAIN


def _lines(source: TextIO) -> Iterator[str]:
    """Lines typed at a prompt, or read from a pipe."""
    if not source.isatty():
        yield from source
        return
    import readline  # noqa: F401 - gives input() its line editing

    while True:
        try:
            yield input("\n> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            say(HELP)
