"""An assistant's turn as ids: how a model's template begins it, what of a trace stands in it, and what ends it.

Everything here is known from a model folder's text side (tokenizer, template, configuration), without its weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from distill.core.errors import DistillError
from distill.core.fingerprint import tokenizer_fingerprint
from distill.core.records import Message, Trace
from distill.text.chat import (
    Prompt,
    apply_template,
    common_length,
    decode,
    load_tokenizer,
    render_prompt,
    render_text,
    stop_ids,
    template_arguments,
)
from distill.text.think import CLOSE, OPEN

Role = Literal["system", "user", "assistant"]

MARK = "distill-mark"
"""An answer that no template changes; where it stands in a rendered chat shows what is written around an answer."""

MARKUP = re.compile(r"[<>\[\]|\uff5c]")
"""What tells a control token from a word."""


@dataclass(frozen=True)
class StudentText:
    """What is known of a model's text side without its weights."""

    folder: Path
    tokenizer: Any
    fingerprint: str | None
    vocab_size: int
    """Rows of the output head, padding included."""
    context: int | None
    end_ids: tuple[int, ...]
    """What ends an assistant's turn in the template; the last one stops generation."""
    stop_ids: frozenset[int]
    """All ids that end an answer; the trained student's generation config lists them."""
    generation_config: dict[str, Any]
    same_tokenizers: frozenset[str] = field(default=frozenset())
    """Fingerprints of tokenizers whose every id means the same (`distill.text.pairing`), its own among them."""

    @property
    def end_id(self) -> int:
        """The stop token of a finished turn."""
        return self.end_ids[-1]

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids that no text may give: special tokens, what ends a turn, and what the template writes around turns."""
        added = dict(self.tokenizer.added_tokens_decoder)
        special = {token for token, about in added.items() if about.special}
        written = set(render_prompt(self.tokenizer, (Message("user", "?"),)).prompt_ids)
        # Markup that is not flagged as special; a line break may be an added token too (Gemma's are), and is none.
        frame = {token for token, about in added.items() if token in written and MARKUP.search(about.content)}
        tags = {token for token, about in added.items() if about.content in (OPEN, CLOSE)}
        return frozenset((special | frame | self.stop_ids) - tags)

    @cached_property
    def close_id(self) -> int | None:
        """The close tag's id; None where it is several tokens."""
        ids = self.tokenizer(CLOSE, add_special_tokens=False)["input_ids"]
        return int(ids[0]) if len(ids) == 1 else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text that a model wrote: think tags may be tokens, but a special token's name is text.

        So `<|im_end|>` inside a reasoning is spelled out, as the teacher that wrote it as text did, and ends nothing.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
        return ids if self.control_ids.isdisjoint(ids) else self._plain(text)

    @cached_property
    def _plain(self) -> Callable[[str], list[int]]:
        """The tokenizer without its control tokens."""
        from tokenizers import Tokenizer

        content = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] not in self.control_ids]
        plain = Tokenizer.from_str(json.dumps(content))
        plain.no_truncation()
        plain.no_padding()
        return lambda text: list(plain.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included and nothing tidied up."""
        return decode(self.tokenizer, ids)


def read_student(folder: Path) -> StudentText:
    """Read tokenizer, template and configuration of a model folder. Raises DistillError where one is missing."""
    tokenizer = load_tokenizer(folder)
    if not tokenizer.chat_template:
        raise DistillError(f"{folder}: the tokenizer has no chat template, so no training row can be made")
    config = _json(folder / "config.json")
    if config is None:
        raise DistillError(f"{folder}: no config.json there, so it is no model that can be trained")
    text_config = config.get("text_config", config)
    generation = _json(folder / "generation_config.json") or {
        name: text_config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in text_config
    }
    stops = stop_ids(tokenizer, SimpleNamespace(**generation))
    ends = end_of_turn(tokenizer, stops)
    fingerprint = tokenizer_fingerprint(folder)
    return StudentText(
        folder=folder,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        vocab_size=int(text_config.get("vocab_size") or len(tokenizer)),
        context=text_config.get("max_position_embeddings"),
        end_ids=ends,
        stop_ids=frozenset(stops | {ends[-1]}),
        generation_config=generation,
        same_tokenizers=frozenset({fingerprint} if fingerprint is not None else ()),
    )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def end_of_turn(tokenizer: Any, stops: set[int] | frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The tokens that the template writes after an assistant's answer, else the tokenizer's EOS.

    Mostly one; several where a template closes the answer first and then the turn (Command R7B). What it writes only
    after the last turn, or only before the next one, is no part of the turn, unless it is one of `stops`. Raises
    DistillError if there is neither: nothing could teach the student to stop.
    """
    question, answer = Message("user", "?"), Message("assistant", MARK)
    last, inner = (_after(tokenizer, turns) for turns in ((question, answer), (question, answer, question)))
    both = last[: common_length(last, inner)]
    run = both if last and inner else last or [token for token in inner[:1] if token in stops]
    for place, token in enumerate(run):
        if token in stops:
            return tuple(run[: place + 1])
    if run:
        return tuple(run) if last and inner else (run[0],)
    if tokenizer.eos_token_id is None:
        raise DistillError(f"{tokenizer.name_or_path}: neither template nor tokenizer has a token that ends a turn")
    return (int(tokenizer.eos_token_id),)


def _after(tokenizer: Any, turns: Sequence[Message]) -> list[int]:
    """The added tokens that stand right behind the mark; none where the template refuses such turns."""
    try:
        text = apply_template(tokenizer, turns, add_generation_prompt=False)
    except DistillError:
        return []
    _, found, after = text.rpartition(MARK)
    ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.content not in (OPEN, CLOSE)}
    return list(takewhile(added.__contains__, ids))


def check_template(tokenizer: Any, roles: Sequence[Role], *, thinks: bool) -> int:
    """Refuse a template under which no sound row of such messages can be made; DistillError says why in one line.

    Gives how often it writes the BOS in such a prompt: mostly once or not at all, or before every turn (Llama 2), or as
    the mark of every turn (tokenizers whose BOS is `<|im_start|>`).

    It must write what system and user say, begin an answer in the prompt as it does in a whole chat (an answer that
    needs a channel or a header of its own would be trained without it), and leave thinking open for a row that thinks.
    """
    name, arguments = tokenizer.name_or_path, template_arguments(tokenizer, thinks)
    messages = tuple(Message(role, f"{MARK}-{number}-{role}") for number, role in enumerate(roles))
    text, start, opened = render_text(tokenizer, messages, thinks)
    for message in messages:
        if message.role != "assistant" and message.content not in text:
            raise DistillError(
                f"{name}: the chat template leaves out what the {message.role} says (some read a list of parts, as "
                "those of image models do, or know no such role); give another with `student.template`"
            )
    if thinks and CLOSE in text[start:] and not opened:
        raise DistillError(
            f"{name}: the chat template closes the thinking in its prompt ({text[start:]!r}) even when asked to think, "
            "so reasoning cannot follow it; give another with `student.template`"
        )
    try:
        whole = apply_template(
            tokenizer, (*messages, Message("assistant", MARK)), add_generation_prompt=False, **arguments
        )
    except DistillError:
        whole = ""  # it renders no answers, so there is nothing that the prompt could differ from
    lead = whole.rpartition(MARK)[0]
    in_chat, in_prompt = _without_thinking(lead), _without_thinking(text)
    if lead and in_chat != in_prompt:
        same = common_length(in_chat, in_prompt)
        raise DistillError(
            f"{name}: before an answer the chat template writes {in_chat[same:][:60]!r} in a whole chat, but "
            f"{in_prompt[same:][:60]!r} in a prompt (add_generation_prompt), so rows would not be what it means; give "
            "another with `student.template`"
        )
    return (
        0
        if tokenizer.bos_token_id is None
        else render_prompt(tokenizer, messages, thinks).ids.count(tokenizer.bos_token_id)
    )


def _without_thinking(text: str) -> str:
    """A rendered text without think tags and space: whether it opens or closes thinking is the row's own matter."""
    return "".join(text.replace(OPEN, "").replace(CLOSE, "").split())


def render_completion(trace: Trace, prompt: Prompt, student: StudentText, *, thinks: bool) -> list[int]:
    """The completion's ids made from text, once. A finished one ends with the end of the turn, a cut one as it is.

    Where a text brings no line breaks of its own around the close tag, it gets those of the R1 and Qwen3 families.
    """
    ids = student.encode(
        completion_text(trace, opened=prompt.opened, prefilled=bool(prompt.prefill_ids), thinks=thinks)
    )
    return [*ids, *student.end_ids] if ids and trace.finish_reason == "stop" else ids


def completion_text(trace: Trace, *, opened: bool, prefilled: bool, thinks: bool) -> str:
    """What the student writes after its prompt, without the end of the turn.

    `opened`: the prompt leaves a think block open. `prefilled`: it wrote tags for the student.
    """
    if thinks and trace.reasoning is not None:
        text = trace.reasoning if opened else f"{OPEN}\n{trace.reasoning}"
        if not trace.closed:
            return text
        before = "" if trace.reasoning.endswith("\n") or not trace.reasoning else "\n"
        after = "" if trace.answer[:1].isspace() else "\n\n"
        return f"{text}{before}{CLOSE}{after}{trace.answer}"
    if opened:  # a template without a no-think form: the student closes the block at once
        return f"\n{CLOSE}\n\n{trace.answer.lstrip()}"
    return trace.answer.lstrip() if prefilled else trace.answer
