"""An Ollama Modelfile beside a GGUF file: where it is, how to sample, where to stop, and the chat template.

Ollama reads Go templates, the file holds Jinja. What the Jinja template writes around each turn is read off its own
renderings, and used only if it gives every probe conversation back, character for character; a template that does more
than write fixed text around turns is left out, and that is said. Format: github.com/ollama/ollama, docs/modelfile.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distill.core.errors import DistillError
from distill.core.records import Message
from distill.text.chat import apply_template, template_arguments

LONGEST_CONTEXT = 32_768
"""Ollama reserves the whole context when it loads a model; more has to be asked for (`PARAMETER num_ctx`)."""

SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}  # fmt: skip
"""Names in generation_config.json, and what Ollama calls them."""

SYSTEM, USER, ANSWER, AGAIN = "\u27e6system\u27e7", "\u27e6user\u27e7", "\u27e6answer\u27e7", "\u27e6again\u27e7"

PROBES = (
    (Message("user", "What is 17*23?"),),
    (Message("system", "You are brief."), Message("user", "Solve 3x+7=22.")),
    (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "And 2+2?")),
    (
        Message("system", "Be kind."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"),
        Message("assistant", "d"), Message("user", "e"),
    ),
)  # fmt: skip
"""Conversations that the parts must give back."""


@dataclass(frozen=True)
class Turns:
    """What a template writes around turns. `start` stands where a system turn would, if there is none."""

    start: str
    before_system: str
    after_system: str
    before_user: str
    after_user: str
    before_answer: str
    after_answer: str
    generation: str

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for an answer to these messages; a system turn only at their head."""
        around = {"user": (self.before_user, self.after_user), "assistant": (self.before_answer, self.after_answer)}
        first = messages[0]
        said = self.start
        if first.role == "system":
            said, messages = f"{self.before_system}{first.content}{self.after_system}", messages[1:]
        for message in messages:
            before, after = around[message.role]
            said += f"{before}{message.content}{after}"
        return said + self.generation


def turns_of(tokenizer: Any) -> Turns | None:
    """The parts of a chat template in its thinking form, or None where it does more than write text around turns."""
    arguments = template_arguments(tokenizer, True)

    def rendered(messages: Sequence[Message]) -> str:
        return apply_template(tokenizer, messages, **arguments)

    try:
        text = rendered((Message("user", USER), Message("assistant", ANSWER), Message("user", AGAIN)))
        pieces = _cut(text, (USER, ANSWER, AGAIN))
    except DistillError:
        return None  # it takes no such conversation, so there is nothing to read off
    if pieces is None:
        return None
    begin, user_to_answer, answer_to_user, end = pieces
    head = None
    with suppress(DistillError):  # a template without system turns: the probes that have one are no measure then either
        head = _cut(rendered((Message("system", SYSTEM), Message("user", USER))), (SYSTEM, USER))
    before_system, system_to_user = (head[0], head[1]) if head is not None else ("", answer_to_user)
    before_user = _shared_head(*(text[::-1] for text in (begin, answer_to_user, system_to_user)))[::-1]
    after_user = _shared_head(user_to_answer, end)
    found = Turns(
        start=begin.removesuffix(before_user), before_system=before_system,
        after_system=system_to_user.removesuffix(before_user) if head is not None else "",
        before_user=before_user, after_user=after_user, before_answer=user_to_answer.removeprefix(after_user),
        after_answer=answer_to_user.removesuffix(before_user), generation=end.removeprefix(after_user),
    )  # fmt: skip
    for probe in PROBES:
        try:
            due = rendered(probe)
        except DistillError:
            continue
        if found.render(probe) != due:
            return None
    return found


def _shared_head(*texts: str) -> str:
    """The longest text that all of them begin with."""
    ends = [place for place, characters in enumerate(zip(*texts, strict=False)) if len(set(characters)) > 1]
    return texts[0][: ends[0] if ends else min(map(len, texts))]


def _cut(text: str, marks: Sequence[str]) -> list[str] | None:
    """What stands before, between and after the marks; None unless each is there once, in this order."""
    pieces = []
    for mark in marks:
        if text.count(mark) != 1:
            return None
        piece, _, text = text.partition(mark)
        pieces.append(piece)
    return [*pieces, text]


def modelfile(
    file: str, tokenizer: Any, *, adds_bos: bool, stops: Sequence[str], sampling: Mapping[str, Any], context: int | None
) -> tuple[str, str | None]:
    """The Modelfile for `file` (a name beside it), and a note on what it could not say.

    `adds_bos`: the file's header makes the runtime put BOS first, so the template must not. `stops` are the texts of
    its stop tokens, `sampling` is what generation_config.json says.
    """
    lines = [f"FROM ./{file}", ""]
    turns = turns_of(tokenizer) if tokenizer.chat_template else None
    template = None if turns is None else go_template(turns, (tokenizer.bos_token or "") if adds_bos else "")
    note = None
    if template is not None and '"""' not in template:
        lines += [f'TEMPLATE """{template}"""', ""]
    else:
        note = (
            "the chat template does more than write text around turns, so the Modelfile has none; "
            "run the file with llama.cpp, which reads the template itself"
        )
    for name, theirs in SAMPLING.items():
        if sampling.get(name) is not None:
            lines.append(f"PARAMETER {theirs} {sampling[name]}")
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    if context is not None:
        lines.append(f"PARAMETER num_ctx {min(context, LONGEST_CONTEXT)}")
    return "\n".join(lines) + "\n", note


def go_template(turns: Turns, bos: str) -> str:
    """The parts as a Go template. `bos` is taken off the head of a prompt: the runtime writes it."""
    said = {name: _literal(text) for name, text in vars(turns).items()}
    said["start"] = _literal(turns.start.removeprefix(bos))
    said["before_system"] = _literal(turns.before_system.removeprefix(bos))
    return (
        f"{{{{ if .System }}}}{said['before_system']}{{{{ .System }}}}{said['after_system']}"
        f"{{{{ else }}}}{said['start']}{{{{ end }}}}"
        "{{ range .Messages }}"
        f'{{{{ if eq .Role "user" }}}}{said["before_user"]}{{{{ .Content }}}}{said["after_user"]}'
        f'{{{{ else if eq .Role "assistant" }}}}{said["before_answer"]}{{{{ .Content }}}}{said["after_answer"]}'
        "{{ end }}{{ end }}"
        f"{said['generation']}"
    )


def _literal(text: str) -> str:
    """Text that a Go template writes as it is."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
