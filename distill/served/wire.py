"""What goes over the wire and what comes back, for the chat and completions APIs and their dialects. No network here.

Shapes follow the servers' own sources and documentation: OpenAI, vLLM and SGLang (`token_ids`, `reasoning_content`,
`reasoning`), llama.cpp (`id` in log-probability entries), Mistral and Anthropic-like content parts, Gemini's
compatibility layer (`extra_content.google.thought`, thinking tokens in `total_tokens` only), OpenRouter
(`reasoning_details`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Request
from distill.core.records import FinishReason, Message, ReasoningKind
from distill.served.faults import Fault
from distill.served.logprobs import Row, as_logprobs, chat_rows, completion_rows

Api = Literal["chat", "completions"]
Server = Literal["vllm", "sglang", "llamacpp", "openai"]
"""Whose extras a server takes; `openai`: none that the API of that name does not have."""

FINISHED: dict[str, FinishReason] = {
    "stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "end_turn": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
}  # fmt: skip
"""How the servers name the ends of a whole answer."""

MESSAGE_TOKENS, PROMPT_TOKENS = 16, 256
"""What a template adds at most: to each message, and to the prompt (gpt-oss's own system message has about 100)."""

OPEN_THOUGHT, CLOSE_THOUGHT = "<thought>", "</thought>"
"""What Gemini puts around thoughts in `content`, besides the flag that says so."""


@dataclass(frozen=True)
class Form:
    """How this server wants to be asked."""

    model: str
    api: Api = "chat"
    server: Server = "openai"
    limit_field: str = "max_tokens"
    send_seed: bool = True
    stream: bool = False
    vocab_size: int | None = None


@dataclass(frozen=True)
class Rendered:
    """A prompt that was made here. `text` is what the completions API gets where no tokenizer is known."""

    text: str
    prompt_ids: tuple[int, ...] | None = None
    prefill_ids: tuple[int, ...] | None = None
    opened: bool = False


@dataclass
class Remarks:
    """What was odd about replies, counted, for one line each at the end of a run."""

    counted: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Count one more answer of which this is true."""
        self.counted[text] = self.counted.get(text, 0) + 1

    def told(self) -> list[str]:
        """One line for each, and start again."""
        lines = [f"{count:,} {text}" for text, count in self.counted.items()]
        self.counted.clear()
        return lines


def seed_of(key: str) -> int:
    """The seed of one answer, from its key, in the 31 bits that every server takes."""
    try:
        return int(key[:8], 16) & 0x7FFFFFFF
    except ValueError:  # a key that is no hash: a probe's, a test's
        return int(digest(key)[:8], 16) & 0x7FFFFFFF


def prompt_bound(messages: Sequence[Message]) -> int:
    """Tokens that a prompt of these messages has at most.

    No byte-level or byte-fallback tokenizer makes more tokens of a text than it has bytes.
    """
    return PROMPT_TOKENS + sum(len(m.content.encode()) + MESSAGE_TOKENS for m in messages)


def body(request: Request, form: Form, rendered: Rendered | None = None) -> dict[str, Any]:
    """The JSON body of one try.

    Raises DistillError where `Sampling.arguments` names something that a setting sets already.
    """
    sampling = request.sampling
    asked: dict[str, Any] = {"model": form.model}
    if form.api == "chat":
        asked["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    else:
        assert rendered is not None, "the completions API takes a prompt that was made here"
        ours = rendered.prompt_ids
        asked["prompt"] = rendered.text if ours is None else [*ours, *(rendered.prefill_ids or ()), *request.prefix_ids]
    asked[form.limit_field] = sampling.max_tokens - len(request.prefix_ids)
    if form.send_seed:
        asked["seed"] = seed_of(request.key)
    if sampling.temperature is not None:
        asked["temperature"] = sampling.temperature
    if sampling.temperature != 0:
        if sampling.top_p is not None:
            asked["top_p"] = sampling.top_p
        if sampling.top_k > 0:
            asked["top_k"] = sampling.top_k
    if form.stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    if sampling.top_logprobs:
        if form.api == "chat":
            asked |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        else:
            asked["logprobs"] = sampling.top_logprobs
        if form.server == "vllm":
            asked["return_tokens_as_token_ids"] = True
    if form.server in ("vllm", "sglang"):
        asked["return_token_ids"] = True
    if sampling.thinking is not None and form.api == "chat":
        asked["chat_template_kwargs"] = {"enable_thinking": sampling.thinking}
    return _merged(asked, sampling.arguments)


def _merged(asked: dict[str, Any], more: dict[str, Any], where: str = "") -> dict[str, Any]:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(asked.get(name), dict):
            value = _merged(dict(asked[name]), value, f"{where}{name}.")
        elif name in asked:
            raise DistillError(
                f"arguments: `{where}{name}` is {value!r} there, but a setting makes it {asked[name]!r}; keep one"
            )
        asked = {**asked, name: value}
    return asked


WRONG_SHAPE = (AttributeError, TypeError, KeyError, IndexError, ValueError, ArithmeticError)
"""What Python says of a value that is not of the shape it was taken for."""


def parse(reply: Any, request: Request, form: Form, rendered: Rendered | None, remarks: Remarks) -> Completion:
    """The completion that a reply carries. `latency_s` is left at 0.

    A reply that is no answer (refused, filtered, a tool call, two different texts of reasoning) is a completion with
    `error`; it has its usage and is not asked for again. Raises Fault where the reply is broken.
    """
    try:
        choice = reply["choices"][0]
        reason = choice["finish_reason"]
        message = choice["message"] if form.api == "chat" else {"content": choice["text"]}
        message.keys()
    except WRONG_SHAPE as error:
        raise _no_answer(reply) from error
    try:
        return _parse(reply, choice, reason, message, request, form, rendered, remarks)
    except WRONG_SHAPE as error:
        raise Fault("bad body", f"the reply has an unknown shape ({_line(str(error))})", at_endpoint=True) from error


def _parse(
    reply: dict[str, Any],
    choice: dict[str, Any],
    reason: Any,
    message: dict[str, Any],
    request: Request,
    form: Form,
    rendered: Rendered | None,
    remarks: Remarks,
) -> Completion:
    usage = _usage(reply)
    if not isinstance(reason, str):
        raise Fault("bad body", "the reply says no finish_reason, so it may have been cut off", usage=usage)
    if reason in ("abort", "error"):
        raise Fault(reason, f"the server gave up on the answer (finish_reason {reason})", at_endpoint=True, usage=usage)
    said = _said(message)
    ids = _ids(choice, reply, form)
    prompt_ids, prefill_ids, opened = _input(ids.prompt, form, rendered, remarks)
    completion_ids = ids.completion
    counted = len(completion_ids) if completion_ids is not None else ids.rows and len(ids.rows)
    if usage is None:
        usage = (_prompt_count(request, prompt_ids, prefill_ids), counted or _most(said, request, reason))
        remarks.add("answers came without usage: their tokens were counted" if counted else ESTIMATED)
    error_text, failure = _objection(said, reason, message)
    logprobs = None
    if request.sampling.top_logprobs and failure == "" and completion_ids:
        logprobs, why = as_logprobs(completion_ids, ids.rows, request.sampling.top_logprobs, form.vocab_size)
        if logprobs is None:
            remarks.add(f"answers keep no log-probabilities: {why}")
    elif request.sampling.top_logprobs and failure == "":
        remarks.add("answers keep no log-probabilities: the server gave no token ids")
    hidden = _reasoning_tokens(reply)
    kind = said.kind
    if said.reasoning is None and hidden and kind is None and CLOSE_TAG not in said.text:
        kind = "hidden"
    return Completion(
        key=request.key,
        text=said.text,
        finish_reason="error" if failure else FINISHED[reason],
        prompt_ids=prompt_ids,
        prefill_ids=prefill_ids,
        completion_ids=completion_ids,
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        opened=opened,
        reasoning_tokens=hidden,
        logprobs=logprobs,
        error=error_text,
        failure=failure,
        reasoning=said.reasoning,
        reasoning_kind=kind,
    )


ESTIMATED = "answers came without usage, ids or log-probabilities: their tokens are an upper estimate"
CLOSE_TAG = "</think>"


@dataclass
class _Said:
    text: str
    reasoning: str | None = None
    kind: ReasoningKind | None = None
    differ: tuple[str, str] | None = None
    """Names of two fields that hold different reasoning."""


def _said(message: dict[str, Any]) -> _Said:
    """Text and reasoning of a message, wherever its server puts them."""
    found: dict[str, str] = {}
    kind: ReasoningKind | None = None
    for name in ("reasoning_content", "reasoning", "thinking"):
        text = _text(message.get(name))
        if text:
            found[name] = text
    content = message.get("content")
    if isinstance(content, list):
        parts = [(part.get("type", "text"), part) for part in content]
        text = "".join(_text(part.get("text")) for type_, part in parts if type_ in ("text", "output_text"))
        thoughts = "".join(_thought(part) for type_, part in parts if type_ in ("thinking", "reasoning"))
        if thoughts:
            found["content"] = thoughts
    else:
        text = _text(content)
    google = (message.get("extra_content") or {}).get("google") or {}
    if google.get("thought") is True and text.startswith(OPEN_THOUGHT) and CLOSE_THOUGHT in text:
        thoughts, _, text = text.removeprefix(OPEN_THOUGHT).partition(CLOSE_THOUGHT)
        found["content"], kind = thoughts, "summary"
    details = message.get("reasoning_details") or message.get("thinking_blocks") or []
    if details and not found:
        thoughts = "".join(_thought(part) for part in details)
        if thoughts:
            found["reasoning_details"] = thoughts
    types = {part.get("type") for part in details}
    if "reasoning.summary" in types and "reasoning.text" not in types:
        kind = "summary"
    elif types and types <= {"reasoning.encrypted", "redacted_thinking"} and not found:
        kind = "hidden"
    said = _Said(text, next(iter(found.values()), None), kind)
    names = list(found)
    other = next((name for name in names[1:] if found[name].strip() != found[names[0]].strip()), None)
    if other is not None:
        said.differ = (names[0], other)
    return said


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # Mistral: a thinking part holds text parts
        return "".join(_text(part) for part in value)
    if isinstance(value, dict):
        return _text(value.get("text") or value.get("content") or value.get("summary"))
    raise TypeError(f"text of type {type(value).__name__}")


def _thought(part: dict[str, Any]) -> str:
    return _text(next((part[n] for n in ("thinking", "text", "reasoning", "summary", "content") if part.get(n)), None))


def _objection(said: _Said, reason: str, message: dict[str, Any]) -> tuple[str | None, str]:
    """(text, kind) of why a whole reply is no answer."""
    refusal = message.get("refusal")
    if refusal:
        return f"the model refused: {_line(str(refusal))}", "refusal"
    if said.differ is not None:
        return f"fields `{said.differ[0]}` and `{said.differ[1]}` hold different reasoning", "two reasonings"
    if reason == "content_filter":
        return "the server's content filter withheld the answer", "content_filter"
    if reason in ("tool_calls", "function_call") or message.get("tool_calls"):
        return "the model called a tool instead of answering", "tool_calls"
    if reason not in FINISHED:
        return f"the server ended the answer with an unknown finish_reason `{reason}`", "finish_reason"
    return None, ""


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _no_answer(reply: Any) -> Fault:
    said = reply.get("error") if isinstance(reply, dict) else None
    if said:  # some gateways say so under a 200
        text = said.get("message", said) if isinstance(said, dict) else said
        return Fault("bad body", f"an error came as an answer: {_line(str(text))}", at_endpoint=True)
    return Fault("bad body", "the reply is JSON, but no answer", at_endpoint=True)


def _usage(reply: dict[str, Any]) -> tuple[int, int] | None:
    """(prompt, completion) tokens as billed: Gemini counts thinking in the total alone."""
    usage = reply.get("usage") or {}
    prompt, completion, total = (usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if not isinstance(prompt, int) or not isinstance(completion, int) or prompt < 0 or completion < 0:
        return None
    return prompt, max(completion, total - prompt if isinstance(total, int) else 0)


def _reasoning_tokens(reply: dict[str, Any]) -> int | None:
    usage = reply.get("usage") or {}
    details = usage.get("completion_tokens_details") or {}
    count = details.get("reasoning_tokens", usage.get("reasoning_tokens"))
    return count if isinstance(count, int) and count > 0 else None


def _prompt_count(request: Request, prompt_ids: Any, prefill_ids: Any) -> int:
    return prompt_bound(request.messages) if prompt_ids is None else len(prompt_ids) + len(prefill_ids or ())


def _most(said: _Said, request: Request, reason: str) -> int:
    """Tokens that an answer of this text has at most."""
    if FINISHED.get(reason) == "length":
        return request.sampling.max_tokens
    shown = len((said.text + (said.reasoning or "")).encode()) + MESSAGE_TOKENS
    return min(request.sampling.max_tokens, shown)


@dataclass(frozen=True)
class _Ids:
    prompt: tuple[int, ...] | None
    completion: tuple[int, ...] | None
    rows: list[Row] | None


def _ids(choice: dict[str, Any], reply: dict[str, Any], form: Form) -> _Ids:
    """Ids and log-probability rows, as far as the server gives them."""
    logprobs = choice.get("logprobs") or {}
    rows: list[Row] | None = None
    if isinstance(logprobs.get("content"), list):
        rows = chat_rows(logprobs["content"])
    elif isinstance(logprobs.get("tokens"), list):
        rows = completion_rows(logprobs)
    completion = choice.get("token_ids")
    if completion is None and rows and all(row.id is not None for row in rows):
        # llama.cpp leaves out rows of half characters: then they are fewer than the tokens, and ids are not known
        whole = (reply.get("usage") or {}).get("completion_tokens") == len(rows)
        completion = [row.id for row in rows] if whole else None
    prompt = reply.get("prompt_token_ids") or choice.get("prompt_token_ids")
    if form.api == "completions" and isinstance(prompt, list) and prompt and isinstance(prompt[0], list):
        prompt = prompt[0]
    return _Ids(
        tuple(map(int, prompt)) if prompt else None,
        tuple(map(int, completion)) if completion is not None else None,
        rows,
    )


def _input(
    given: tuple[int, ...] | None, form: Form, rendered: Rendered | None, remarks: Remarks
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None, bool]:
    """(prompt ids, prefill ids, whether thinking was open): ours where the server was fed them, or says the same."""
    if rendered is None or rendered.prompt_ids is None:
        return given, None if given is None else (), False
    whole = rendered.prompt_ids + (rendered.prefill_ids or ())
    if given is None and form.api == "chat":
        return None, None, False
    if given is None or given[: len(whole)] == whole:
        return rendered.prompt_ids, rendered.prefill_ids, rendered.opened
    remarks.add("answers were asked with other prompt ids than the folder of `tokenizer` makes")
    return given, (), False


def assembled(events: Iterable[Any], api: Api) -> dict[str, Any]:
    """The whole reply that a stream of chunks amounts to. Raises Fault as `Stream.add`."""
    whole = Stream(api)
    for event in events:
        whole.add(event)
    return whole.reply()


class Stream:
    """Puts the chunks of one streamed answer together."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.finished = False
        self._text: dict[str, list[str]] = {}
        self._parts: list[Any] = []
        self._thoughts: list[str] = []
        self._details: list[Any] = []
        self._reply: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._token_ids: list[int] | None = None

    def add(self, event: Any) -> None:
        """Take one chunk in. Raises Fault for one that carries an error or has no shape."""
        if not isinstance(event, dict) or (event.get("error") and not event.get("choices")):
            raise _no_answer(event)
        for name in ("usage", "prompt_token_ids"):
            if event.get(name) is not None:
                self._reply[name] = event[name]
        try:
            for choice in event.get("choices") or []:
                if choice.get("index", 0) == 0:
                    self._add(choice)
        except WRONG_SHAPE as error:
            raise Fault("bad body", f"an event has an unknown shape ({_line(str(error))})", at_endpoint=True) from error

    def _add(self, choice: dict[str, Any]) -> None:
        if choice.get("finish_reason") is not None:
            self._choice["finish_reason"] = choice["finish_reason"]
            self.finished = True
        if choice.get("prompt_token_ids") is not None:
            self._choice["prompt_token_ids"] = choice["prompt_token_ids"]
        if choice.get("token_ids") is not None:
            self._token_ids = [*(self._token_ids or []), *choice["token_ids"]]
        for name, values in (choice.get("logprobs") or {}).items():
            if isinstance(values, list):
                self._logprobs.setdefault(name, []).extend(values)
        if self.api == "completions":
            self._text.setdefault("text", []).append(choice.get("text") or "")
            return
        delta = choice.get("delta") or choice.get("message") or {}
        flagged = ((delta.get("extra_content") or {}).get("google") or {}).get("thought") is True
        for name, value in delta.items():
            if isinstance(value, str) and name == "content" and flagged:
                self._thoughts.append(value)
            elif isinstance(value, str) and name not in ("role", "id"):
                self._text.setdefault(name, []).append(value)
            elif name == "content" and isinstance(value, list):
                self._parts.extend(value)
            elif name in ("reasoning_details", "thinking_blocks") and isinstance(value, list):
                self._details.extend(value)
            elif name == "tool_calls" and value:
                self._message["tool_calls"] = value

    def reply(self) -> dict[str, Any]:
        """What a server that does not stream would have sent."""
        choice = dict(self._choice)
        choice.setdefault("finish_reason", None)
        texts = {name: "".join(pieces) for name, pieces in self._text.items()}
        if self.api == "completions":
            choice["text"] = texts.get("text", "")
        else:
            message: dict[str, Any] = {"content": None} | texts | self._message
            if self._parts:
                message["content"] = [*self._parts, {"type": "text", "text": texts.get("content", "")}]
            if self._details:
                message["reasoning_details"] = self._details
            if self._thoughts:
                thoughts = "".join(self._thoughts)
                inner = thoughts.removeprefix(OPEN_THOUGHT).partition(CLOSE_THOUGHT)
                message["reasoning_details"] = [{"type": "reasoning.summary", "summary": inner[0]}]
                message["content"] = inner[2] + (message["content"] or "").removeprefix(CLOSE_THOUGHT)
            choice["message"] = message
        if self._token_ids is not None:
            choice["token_ids"] = self._token_ids
        if self._logprobs:
            choice["logprobs"] = self._logprobs
        return {**self._reply, "choices": [choice]}


def decoded(content: bytes, content_type: str) -> Any:
    """The JSON of a whole reply. Raises Fault for another content type or what is no JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    if "json" not in kind:
        start = " ".join(content[:80].decode(errors="replace").split())
        raise Fault("content type", f"the reply is {kind or 'of no type'}, not JSON ({start!r})", at_endpoint=True)
    try:
        return json.loads(content)
    except ValueError as error:
        raise Fault("bad JSON", f"the reply is no JSON ({error})", at_endpoint=True) from error
