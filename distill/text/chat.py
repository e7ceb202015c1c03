"""From messages to ids and back: chat templates, what they write for the model, and where a model stops.

Everything here works on a loaded tokenizer; text becomes ids once, in `render_prompt`, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError
from distill.core.records import Message
from distill.text.think import CLOSE, OPEN

PROBES = (
    "What is 17*23? 3x+7=22, 1,234.56 and 2024 0001 9999999",
    "it's we'll I'D don't THEY'RE \u2019tis",
    "def f(x):\n\treturn  x**2  # three   spaces\n\n\n\nprint(f(10))\r\n",
    " leading and trailing \n \n",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0e44\u0e17\u0e22",
    "caf\u00e9 cafe\u0301 na\u00efve \u00bd x\u00b2 \u2212 \u00d7 \u2264 \u221e \uff11\uff12",
    "\U0001f600 \U0001f469\u200d\U0001f52c \U0001f1e9\U0001f1ea e\u0301\u200b\ufeff\u00a0",
    f"{OPEN}\nso \\boxed{{391}}\n{CLOSE}\n\nThe answer is $\\frac{{1}}{{2}}$.",
    f"no{OPEN}space {CLOSE}{CLOSE} <thin k> </s> <|im_end|> [INST]",
)
"""What two readers of one tokenizer must agree on: digits, contractions, code, scripts, emoji, tags inside text."""


_DATED = "{%- macro strftime_now(format) %}"

TEMPLATE_DATE = datetime(2024, 7, 26)
"""What templates are told of today's date: the day that Llama 3's templates write where nobody tells them."""


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. The model is fed `prompt_ids + prefill_ids`.

    `prefill_ids` is the tail that the template wrote for the model (`<think>` and a newline, or an empty closed block);
    `opened` says whether it leaves the think block open.
    """

    prompt_ids: tuple[int, ...]
    prefill_ids: tuple[int, ...]
    opened: bool

    @property
    def ids(self) -> tuple[int, ...]:
        """All that is fed before the first drawn token."""
        return self.prompt_ids + self.prefill_ids


def render_text(tokenizer: Any, messages: Sequence[Message], thinking: bool | None) -> tuple[str, int, bool]:
    """The prompt as text, where in it the prefill starts (its length: there is none), and whether a block is open.

    `thinking` goes to the template (`template_arguments`) only when it is not None. Raises DistillError if the
    tokenizer has no template or the template refuses the messages.
    """
    return _rendered(tokenizer, messages, template_arguments(tokenizer, thinking))


def template_arguments(tokenizer: Any, thinking: bool | None) -> dict[str, Any]:
    """What asks a template for thinking, or for none: `enable_thinking`, or the name that alone opens a block.

    DeepSeek-V3.1's template calls it `thinking`, MiniMind's `open_thinking`; both close the thinking without it.
    """
    if thinking is None:
        return {}
    source = tokenizer.chat_template
    for name in _other_names(source) if isinstance(source, str) else ():
        question = (Message("user", "?"),)
        if [_rendered(tokenizer, question, {name: value})[2] for value in (True, False)] == [True, False]:
            return {name: thinking}
    return {"enable_thinking": thinking}


@lru_cache(maxsize=8)
def _other_names(source: str) -> tuple[str, ...]:
    """Names in a template that may ask for thinking where it knows no `enable_thinking`."""
    code = re.sub(r"'[^']*'|\"[^\"]*\"", "", source)
    names = {name for name in re.findall(r"\b\w*think\w*\b", code) if name != "think"}
    return () if "enable_thinking" in names else tuple(sorted(names))


def _rendered(tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]) -> tuple[str, int, bool]:
    text = apply_template(tokenizer, messages, **arguments)
    # What follows the last message is what stays when that message says something else. (A prompt rendered without the
    # generation prompt is no measure: some templates write other things in its place, some ignore the argument.)
    other = replace(messages[-1], content="0" if messages[-1].content.rstrip().endswith("1") else "1")
    changed = apply_template(tokenizer, (*messages[:-1], other), **arguments)
    return text, *_prefill(text, len(text) - common_length(text[::-1], changed[::-1]))


def apply_template(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True, **arguments: Any
) -> str:
    """The template's text for these messages. Raises DistillError if there is no template or it refuses them.

    Today's date is `TEMPLATE_DATE` to it (`dated`): the same messages give the same ids tomorrow.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DistillError(f"{tokenizer.name_or_path}: the tokenizer has no chat template, so no prompt can be made")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text: str = tokenizer.apply_chat_template(
            turns, chat_template=dated(tokenizer.get_chat_template()), tokenize=False,
            add_generation_prompt=add_generation_prompt, **arguments,
        )  # fmt: skip
    except Exception as error:  # a template is a program of others: whatever it raises, on purpose or not, is its fault
        reason = " ".join(str(error).split())
        raise DistillError(f"{tokenizer.name_or_path}: the chat template refuses the messages ({reason})") from error
    return text


def dated(template: str) -> str:
    """The template with its date fixed at `TEMPLATE_DATE`; as it is where it asks for none.

    A macro of the name that runtimes give templates takes its place, so that the text says so wherever it is rendered.
    """
    if "strftime_now" not in template or template.startswith(_DATED):
        return template
    codes = [*(f"-{code}" for code in "dmHIMS"), *"aAbBcdHIjmMpSUwWxXyYZ"]
    replaced = "".join(f"|replace('%{code}', '{TEMPLATE_DATE.strftime(f'%{code}')}')" for code in codes)
    return f"{_DATED}{{{{- format{replaced} }}}}{{%- endmacro %}}{template}"


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How far two texts or lists of ids are the same from their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def prefill_start(text: str, before: str) -> tuple[int, bool]:
    """Where a rendered prompt opens the model's thinking, and whether it leaves it open; (its length, False) if not.

    `before` is the same prompt rendered without the generation prompt: a tag in a question does not count.
    """
    return _prefill(text, len(before)) if text.startswith(before) else (len(text), False)


def _prefill(text: str, after: int) -> tuple[int, bool]:
    """Where the first think tag stands at or behind `after`, and whether the last one there is an opening one."""
    tags = [found for found in re.finditer(f"{re.escape(OPEN)}|{re.escape(CLOSE)}", text) if found.start() >= after]
    return (tags[0].start(), tags[-1][0] == OPEN) if tags else (len(text), False)


def render_prompt(tokenizer: Any, messages: Sequence[Message], thinking: bool | None = None) -> Prompt:
    """Render the messages with the generation prompt and turn the text into ids, once.

    The template alone writes special tokens, so there is at most one BOS: where it writes two, one is dropped.
    Raises DistillError as `render_text` does.
    """
    text, start, opened = render_text(tokenizer, messages, thinking)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    split = sum(end <= start for _, end in encoded["offset_mapping"])
    bos = tokenizer.bos_token_id
    doubled = next((n for n, token in enumerate(ids) if token != bos), 0) if bos is not None else 0
    extra = max(0, doubled - 1)
    return Prompt(tuple(ids[extra:split]), tuple(ids[split:]), opened)


def stop_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """Ids that end an answer: the generation config's (one, several or none) and the tokenizer's own EOS."""
    named = getattr(generation_config, "eos_token_id", None)
    ids = set() if named is None else {named} if isinstance(named, int) else set(named)
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return ids


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the highest id the tokenizer knows."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return max(vocabulary.values()) + 1


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Ids as text, special tokens included and nothing tidied up; half a character becomes U+FFFD."""
    text: str = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


class TokenizerCodec:
    """Text to ids and back with a model folder's tokenizer; see `distill.core.protocols.Codec`."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, without a BOS."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included."""
        return decode(self._tokenizer, ids)

    def close(self) -> None:
        """Nothing to free."""


def load_tokenizer(folder: Path) -> Any:
    """Load a model folder's tokenizer and check it with `check_tokenizer`.

    Raises DistillError if there is no `tokenizer.json`: fingerprints, offsets and exports all read that file.
    """
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise DistillError(f"{folder}: no tokenizer.json there; write one with AutoTokenizer's save_pretrained")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DistillError(f"{folder}: its tokenizer cannot be loaded ({reason})") from error
    check_tokenizer(tokenizer, folder)
    return tokenizer


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Raise DistillError if the loaded tokenizer and the folder's `tokenizer.json` give other ids for a probe text.

    transformers replaces the pre-tokenizer of some model types (a folder of type qwen2) whatever the file says; ids
    made in training and ids of an export, which follows the file, would then differ without a word.
    """
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for probe in PROBES:
        loaded = tokenizer(probe, add_special_tokens=False)["input_ids"]
        read = plain.encode(probe, add_special_tokens=False).ids
        if loaded != read:
            raise DistillError(
                f"{folder}: transformers loads a {type(tokenizer).__name__} that reads {probe[:24]!r}... as "
                f"{len(loaded)} ids, its tokenizer.json as {len(read)} others; "
                "set `tokenizer_class` in tokenizer_config.json to PreTrainedTokenizerFast or mend the file"
            )
