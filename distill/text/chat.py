"""From messages to ids and back: chat templates, what they write for the model, and where a model stops.

Everything here works on a loaded tokenizer; text becomes ids once, in `render_prompt`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    `thinking` goes to the template as `enable_thinking`, and only when it is not None. Raises DistillError if the
    tokenizer has no template or the template refuses the messages.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise DistillError(f"{tokenizer.name_or_path}: the tokenizer has no chat template, so no prompt can be made")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
        before: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, **arguments)
    except TemplateError as error:
        raise DistillError(f"{tokenizer.name_or_path}: the chat template refuses the messages ({error})") from error
    return text, *prefill_start(text, before)


def prefill_start(text: str, before: str) -> tuple[int, bool]:
    """Where a rendered prompt opens the model's thinking, and whether it leaves it open; (its length, False) if not.

    `before` is the same prompt rendered without the generation prompt: a tag in a question does not count.
    """
    start = text.find(OPEN, len(before)) if text.startswith(before) else -1
    return (len(text), False) if start < 0 else (start, CLOSE not in text[start:])


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
