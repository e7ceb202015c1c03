"""Questions to llama.cpp about one GGUF file, asked of a server in a child process (`distill.gguf.runtime`).

It runs in the exact setting: no flash attention, keys and values in float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError, MissingExtra
from distill.gguf.runtime import Runtime, RuntimeSettings, ServerEnded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL_BYTES = 200e6
"""A file up to this size gets one thread: more would spend their time waiting, by spinning, for each other."""

SPEED_TOKENS = 32
"""Tokens that are drawn to measure the speed."""


@dataclass(frozen=True)
class Chat:
    """A conversation to render, with what the template is given beside it."""

    messages: Sequence[Mapping[str, str]]
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """What to ask. `prefixes` are token ids; `stops` are ids of tokens that must end an answer."""

    texts: Sequence[str] = ()
    chats: Sequence[Chat] = ()
    prefixes: Sequence[Sequence[int]] = ()
    reuse: bool = False
    """Whether a prefix may be continued from the one before it: much less to compute where they grow."""
    stops: Sequence[int] = ()
    plain: int = 0
    """A token that is whole text and ends nothing: forced where only the distribution is wanted."""
    vocabulary: int = 0
    """Entries of the vocabulary."""
    prompts: Sequence[Sequence[int]] = ()
    """Token ids to continue greedily, by `new_tokens` tokens or to a stop."""
    new_tokens: int = 0
    speed: bool = False
    """Whether to measure how many tokens a second it draws."""


@dataclass(frozen=True)
class Answers:
    """What llama.cpp said, in the order of the questions. P prefixes, V vocabulary entries."""

    text_ids: list[list[int]]
    chat_texts: list[str | None]
    """A rendered prompt; None where the template refused the conversation."""
    chat_ids: list[list[int] | None]
    logprobs_PV: NDArray[np.float32] | None
    stopped: list[bool]
    continued: list[list[int]]
    tokens_per_s: float | None = None


def ask(model: Path, questions: Questions, *, log: Path, timeout_s: float = 600.0) -> Answers:
    """Open `model` and ask; the runtime's log is kept in `log`. Loading, and each answer, may take `timeout_s` seconds.

    Raises DistillError if the file cannot be opened, the runtime dies, or an answer does not come in time; MissingExtra
    if the xllamacpp wheel is not installed.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtra("the proof opens the file in llama.cpp, which comes with xllamacpp: pip install xllamacpp")
    log.parent.mkdir(parents=True, exist_ok=True)
    longest = max((len(ids) for ids in (*questions.prefixes, *questions.prompts)), default=0)
    context = max(256, longest + questions.new_tokens + 16)
    settings = RuntimeSettings(context, threads=threads_for(model), exact=True)
    with Runtime(model, settings, start_timeout_s=timeout_s, log=log) as runtime:
        server = _Server(runtime, timeout_s, questions)
        rendered = [server.render(chat) for chat in questions.chats]
        return Answers(
            text_ids=[server.ids(text, add_special=False) for text in questions.texts],
            chat_texts=rendered,
            chat_ids=[None if text is None else server.ids(text, add_special=True) for text in rendered],
            logprobs_PV=server.next_logprobs() if questions.prefixes else None,
            stopped=[server.stops_at(stop) for stop in questions.stops],
            continued=[server.continue_greedily(prompt) for prompt in questions.prompts],
            tokens_per_s=server.speed() if questions.speed else None,
        )


def threads_for(model: Path) -> int | None:
    """One for a small file; None, every core, for others."""
    return 1 if model.stat().st_size < SMALL_BYTES else None


@dataclass(frozen=True)
class _Server:
    """The questions as requests."""

    runtime: Runtime
    timeout_s: float
    asked: Questions

    def ids(self, text: str, *, add_special: bool) -> list[int]:
        """The file's own tokenisation, tokens written in the text included."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return list(self.runtime.post("/tokenize", body, self.timeout_s)["tokens"])

    def render(self, chat: Chat) -> str | None:
        """The prompt that the file's template makes; None where the template refuses the conversation."""
        body = {"messages": list(chat.messages), "chat_template_kwargs": dict(chat.template_arguments)}
        try:
            return str(self.runtime.post("/apply-template", body, self.timeout_s)["prompt"])
        except ServerEnded:
            raise
        except DistillError:
            return None

    def next_logprobs(self) -> NDArray[np.float32]:
        """Log-probability of every token after each prefix, [P, V].

        The reply has none when the drawn token ends the answer or is half a character, so a plain token is forced; what
        is reported are the raw values all the same.
        """
        import numpy as np

        logprobs_PV = np.full((len(self.asked.prefixes), self.asked.vocabulary), np.nan, np.float32)
        for row, prefix in enumerate(self.asked.prefixes):
            force = {"n_probs": self.asked.vocabulary, "logit_bias": [[self.asked.plain, 1e9]]}
            force |= {"cache_prompt": self.asked.reuse}
            reply = self._complete(prefix, 1, force)
            for entry in reply["completion_probabilities"][0]["top_logprobs"]:
                logprobs_PV[row, entry["id"]] = entry["logprob"]
        return logprobs_PV

    def stops_at(self, stop: int) -> bool:
        """Whether drawing this token ends an answer."""
        return bool(self._complete([self.asked.plain], 2, {"logit_bias": [[stop, 1e9]]})["stop_type"] == "eos")

    def continue_greedily(self, prompt: Sequence[int]) -> list[int]:
        """The most probable tokens, one after the other."""
        return list(self._complete(prompt, self.asked.new_tokens, {"return_tokens": True})["tokens"])

    def speed(self) -> float:
        """Tokens drawn a second, one answer alone, an end of the answer notwithstanding."""
        reply = self._complete([self.asked.plain], SPEED_TOKENS, {"ignore_eos": True})
        return float(reply["timings"]["predicted_per_second"])

    def _complete(self, prompt: Sequence[int], tokens: int, more: dict[str, Any]) -> dict[str, Any]:
        body = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0.0, "cache_prompt": False, **more}
        reply: dict[str, Any] = self.runtime.post("/completion", body, self.timeout_s)
        return reply
