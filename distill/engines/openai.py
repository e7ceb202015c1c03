"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp's, TGI, `transformers serve`, hosted APIs.

Chat or completions, one or several endpoints of the same model, streamed or not. Token ids and log-probabilities are
kept where the server gives them; see docs/served-teachers.md for which does. The model's identity is what the
experiment declares (name, revision, precision): a server cannot be hashed, and its URL says nothing of its weights.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from distill.core import fingerprint
from distill.core.config import Unkeyed, digest
from distill.core.errors import ConfigError, DistillError
from distill.core.files import read_json
from distill.core.models import resolve
from distill.core.protocols import Codec, Completion, Request, ScoreRequest
from distill.core.records import ModelIdentity
from distill.served import wire
from distill.served.client import Client, Timeouts
from distill.served.endpoints import Endpoint, Endpoints
from distill.served.engine import ServedEngine
from distill.served.faults import Fault
from distill.served.scoring import ScoreSender
from distill.served.settings import ServedSettings, declared

SERVED = True
"""The server has its own name for the model, which is no file or Hub id."""

HOSTED, KEY_VARIABLE = "api.openai.com", "OPENAI_API_KEY"
"""OpenAI's own host, and where its key is looked for if nothing else is named. No other host is ever sent that key."""

FIRST_CONTACT = 3
"""Tries to reach a server before the first request, a second apart."""

LIST_S = 30.0
"""How long a list of models may take; a server that has none to give in time is taken as it is."""

OWNERS: tuple[wire.Server, ...] = ("vllm", "sglang", "llamacpp")
"""Servers that name themselves as the owner of their models."""

CONTEXT_NAMES = ("max_model_len", "n_ctx", "context_length", "context_window", "max_context_length")
"""What vLLM and SGLang, llama.cpp, and hosted APIs call a model's context in their list of models."""

KEPT_PROMPTS = 1024
"""Prompts whose rendering or length is remembered: all samples of a problem share one."""

LARGEST_ONLY = True
"""A server sends the largest log-probabilities of a token, never all of them."""


NO_PREFIX = "only `api: completions` with a `tokenizer` can continue an answer"


class Config(ServedSettings):
    """Settings of the `openai` engine."""

    url: Annotated[str | list[str], Unkeyed, Field(min_length=1)] = "https://api.openai.com/v1"
    """Base address with its version (`http://127.0.0.1:8000/v1`), or several that serve the same model."""
    api: Literal["chat", "completions"] = "chat"
    """Which of the two APIs: `chat` (the server writes the prompt), or `completions` (see `tokenizer`)."""
    served_name: Annotated[str | None, Unkeyed] = None
    """What the server calls the model. None: as the teacher's `model`."""
    api_key_env: Annotated[str | None, Unkeyed] = None
    """Environment variable that holds the key. None: OPENAI_API_KEY for api.openai.com, and no key for other hosts."""
    headers_env: Annotated[dict[str, str], Unkeyed] = Field(default_factory=dict)
    """Further headers, each with the environment variable that holds its value: `{x-api-key: MY_KEY}`."""
    server: Annotated[Literal["vllm", "sglang", "llamacpp", "openai"] | None, Unkeyed] = None
    """Whose extras it takes (token ids). None: asked from its list of models."""
    tokenizer: str | None = None
    """Folder with the model's tokenizer: whose ids the server's are (log-probabilities need it); renders prompts for
    `api: completions`, which otherwise gets the messages' bare text."""
    limit_field: Annotated[Literal["max_tokens", "max_completion_tokens"] | None, Unkeyed] = None
    """The body's name for the limit. None: `max_completion_tokens` at api.openai.com, `max_tokens` elsewhere."""
    scored_tokens: Annotated[PositiveInt, Unkeyed] = 8192
    """Tokens in flight at once while a vLLM server scores given ones (`score:`); a longer trace goes alone. It makes
    logits of all of them, which take 6 bytes a vocabulary entry: 7 GiB for 8,192 tokens and 152k entries."""
    stream: Annotated[bool, Unkeyed] = False
    """Take answers as a stream of events: keeps gateways from giving up on long ones, at more CPU for each token."""
    connect_s: Annotated[PositiveFloat, Unkeyed] = 10.0
    """Longest wait for a connection."""
    first_token_s: Annotated[PositiveFloat, Unkeyed] = 600.0
    """Longest wait for the first token of a stream, and for each next one."""

    @field_validator("url")
    @classmethod
    def _with_version(cls, url: str | list[str]) -> str | list[str]:
        """Refuse what is no address; add the version that a bare host lacks."""
        many = [url] if isinstance(url, str) else url
        whole = []
        for one in many:
            parts = urlsplit(one)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"not an address (http://HOST:PORT/v1): {one}")
            if parts.username or parts.password:
                raise ValueError("an address holds no password: name an environment variable in `api_key_env`")
            whole.append(f"{one.rstrip('/')}/v1" if parts.path in ("", "/") else one.rstrip("/"))
        if len(set(whole)) < len(whole):
            raise ValueError(f"the same address twice: {', '.join(whole)}")
        return whole[0] if isinstance(url, str) else whole

    @model_validator(mode="after")
    def _tokenizer_is_there(self) -> Config:
        if self.tokenizer is not None and not (Path(self.tokenizer).expanduser() / "tokenizer.json").is_file():
            raise ValueError(f"tokenizer: no tokenizer.json in {self.tokenizer}")
        return self

    @property
    def continues(self) -> bool:
        """Whether answers can be continued from their ids."""
        return self.api == "completions" and self.tokenizer is not None

    @property
    def urls(self) -> list[str]:
        """The endpoints."""
        return [self.url] if isinstance(self.url, str) else self.url


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """The declared identity: name, revision and precision; with a tokenizer folder, its fingerprints."""
    own = declared(model, revision, config.precision)
    if config.tokenizer is None:
        return own
    folder = resolve(config.tokenizer)
    template = fingerprint.chat_template(folder)
    return replace(
        own,
        tokenizer=fingerprint.tokenizer_fingerprint(folder),
        template=None if template is None else digest(template)[:16],
        vocab_size=_vocab_size(folder),
    )


def _vocab_size(folder: Path) -> int:
    """Rows of the model's head where its config is there, else entries of the tokenizer."""
    if (folder / "config.json").is_file():
        shape = read_json(folder / "config.json")
        size = shape.get("text_config", shape).get("vocab_size")
        if size is not None:
            return int(size)
    whole = read_json(folder / "tokenizer.json")
    ids = [*whole["model"]["vocab"].values(), *(token["id"] for token in whole.get("added_tokens", []))]
    return int(max(ids)) + 1


def build(config: Config, model: str, revision: str | None = None) -> ServedEngine:
    """Make the engine. Raises ConfigError for a key that is not in the environment; nothing is sent yet."""
    identity, endpoints = identify(config, model, revision), Endpoints(config.urls)
    sender = Sender(config, model, identity, endpoints)

    def scorer(asked: Mapping[str, ScoreRequest], top_k: int) -> ScoreSender:
        size = identity.vocab_size or 0
        return ScoreSender(sender, asked, top_k, sender.form.model, size, config.scored_tokens)

    return ServedEngine("openai", identity, config, sender, endpoints, scorer)


def codec(config: Config, model: str, revision: str | None = None) -> Codec:
    """The tokenizer of the folder `tokenizer`. Raises DistillError where answers cannot be continued."""
    from distill.text.chat import TokenizerCodec

    del revision
    if config.tokenizer is None or not config.continues:
        raise DistillError(f"model {model}: {NO_PREFIX}")
    return TokenizerCodec(resolve(config.tokenizer))


class Sender:
    """One try at one endpoint, and what has to be known of the server before."""

    def __init__(self, config: Config, model: str, identity: ModelIdentity, endpoints: Endpoints) -> None:
        self.config, self.endpoints = config, endpoints
        self.remarks = wire.Remarks()
        self._headers, self._secrets = _headers(config)
        self._timeouts = Timeouts(config.connect_s, config.first_token_s, config.total_s)
        self.form = wire.Form(
            model=config.served_name or model,
            api=config.api,
            server=config.server or "openai",
            limit_field=config.limit_field or ("max_completion_tokens" if _hosted(config) else "max_tokens"),
            send_seed=config.send_seed,
            stream=config.stream,
            vocab_size=identity.vocab_size,
        )
        self.context = config.context
        self.heard: Callable[[dict[str, Any], Any], None] | None = None
        """Told of every body that was sent and the raw reply to it."""
        self._met = False
        self._tokenizer: Any = None
        self._rendered: OrderedDict[tuple[Any, ...], wire.Rendered] = OrderedDict()
        self._counted: OrderedDict[tuple[Any, ...], int | None] = OrderedDict()
        self._client: Client | None = None
        self._path = "/chat/completions" if config.api == "chat" else "/completions"

    async def open(self) -> None:
        """Connect, and once ask each server what it is. Raises DistillError if none can be reached."""
        self._client = Client(self._headers, self._secrets, self._timeouts, self.config.concurrency)
        if not self._met:
            if self.config.tokenizer is not None:
                from distill.text.chat import load_tokenizer

                self._tokenizer = load_tokenizer(resolve(self.config.tokenizer))
            await self._meet()
            self._met = True

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def check(self, request: Request) -> None:
        """Refuse what cannot fit the context, and a prefix where only messages can be sent."""
        name, limit = self.form.model, request.sampling.max_tokens
        if request.prefix_ids and (self.form.api == "chat" or self._tokenizer is None):
            raise DistillError(f"model {name}: {NO_PREFIX}")
        if self.context is None or wire.prompt_bound(request.messages) + limit <= self.context:
            return
        count = await self._count(request)
        if (count or 1) + limit <= self.context:
            return  # it fits, or nobody can say
        of = f"a prompt of {count} tokens" if count else "a prompt"
        room = f"at most {max(0, self.context - count)} or shorten the prompt" if count else "less"
        raise DistillError(
            f"model {name}: {of} and max_tokens {limit} need a context of {(count or 1) + limit}, the server has "
            f"{self.context}; set max_tokens to {room}"
        )

    def worst(self, request: Request) -> tuple[int, int]:
        """Bytes bound the prompt, `max_tokens` the answer."""
        return wire.prompt_bound(request.messages), request.sampling.max_tokens

    async def send(self, request: Request, endpoint: Endpoint) -> Completion:
        """One try. Raises Fault."""
        assert self._client is not None
        rendered = self._render(request)
        body, url = wire.body(request, self.form, rendered), endpoint.url + self._path
        try:
            if self.form.stream:
                reply = await self._client.stream(url, body, self.form.api)
            else:
                reply = await self._client.post(url, body)
        except Fault as fault:
            if fault.kind in ("400", "422") and request.sampling.top_logprobs and "logprobs" in str(fault):
                text = f"{fault}; set `top_logprobs` to what this server allows (0: none)"
                raise Fault(fault.kind, text, again=False, ends_run=True, bill="nothing") from fault
            if fault.kind == "401":
                raise Fault("401", f"{fault}{self._hint()}", again=False, ends_run=True, bill="nothing") from fault
            raise
        if self.heard is not None:
            self.heard(body, reply)
        return self._without_stop(wire.parse(reply, request, self.form, rendered, self.remarks))

    async def complete(self, body: dict[str, Any], endpoint: Endpoint) -> Any:
        """POST to the completions API of an endpoint and decode the reply. Raises Fault."""
        assert self._client is not None
        return await self._client.post(f"{endpoint.url}/completions", body)

    def _without_stop(self, completion: Completion) -> Completion:
        """`transformers serve` leaves the text of the stop token at the end of some models' answers."""
        stop: str | None = getattr(self._tokenizer, "eos_token", None)
        if not stop or completion.finish_reason != "stop" or not completion.text.endswith(stop):
            return completion
        return replace(completion, text=completion.text.removesuffix(stop))

    def _hint(self) -> str:
        return "" if self._headers else " (no key was sent: name the variable that holds it in `api_key_env`)"

    # ---- prompts

    def _render(self, request: Request) -> wire.Rendered | None:
        """The prompt as the tokenizer's folder makes it, or its bare text for the completions API."""
        if self._tokenizer is None:
            if self.form.api == "chat":
                return None
            return wire.Rendered("\n\n".join(message.content for message in request.messages))
        from distill.text.chat import render_prompt

        asked = (request.messages, request.sampling.thinking)
        known = self._rendered.get(asked)
        if known is None:
            prompt = render_prompt(self._tokenizer, *asked)
            known = wire.Rendered("", prompt.prompt_ids, prompt.prefill_ids, prompt.opened)
            _keep(self._rendered, asked, known)
        return known

    async def _count(self, request: Request) -> int | None:
        """Tokens of the prompt as the server makes it; None where it cannot be asked."""
        rendered = self._render(request)
        if rendered is not None and rendered.prompt_ids is not None:
            return len(rendered.prompt_ids) + len(rendered.prefill_ids or ())
        asked = (request.messages, request.sampling.thinking)
        if asked not in self._counted:
            _keep(self._counted, asked, await self._ask_count(request, rendered))
        return self._counted[asked]

    async def _ask_count(self, request: Request, rendered: wire.Rendered | None) -> int | None:
        assert self._client is not None
        root = self.endpoints.all[0].root
        turns: dict[str, Any] = {"messages": [{"role": m.role, "content": m.content} for m in request.messages]}
        if request.sampling.thinking is not None:
            turns["chat_template_kwargs"] = {"enable_thinking": request.sampling.thinking}
        try:
            if self.form.server == "vllm":
                what = turns if rendered is None else {"prompt": rendered.text}
                reply = await self._client.post(f"{root}/tokenize", {"model": self.form.model, **what})
                return int(reply["count"])
            if self.form.server == "llamacpp":
                if rendered is None:
                    text = (await self._client.post(f"{root}/apply-template", turns))["prompt"]
                else:
                    text = rendered.text
                whole = {"content": text, "add_special": False, "parse_special": True}
                return len((await self._client.post(f"{root}/tokenize", whole))["tokens"])
        except (Fault, KeyError, TypeError, ValueError):
            return None  # a server that cannot count refuses what is too long itself
        return None

    # ---- first contact

    async def _meet(self) -> None:
        """What each server says of itself; one that says nothing is taken as it is."""
        silent: list[Fault] = []
        abouts: list[_About] = []
        for endpoint in self.endpoints.all:
            listed = await self._models(endpoint)
            if isinstance(listed, Fault):
                silent.append(listed)
                self.endpoints.failed(endpoint)
            else:
                abouts.append(_about(listed, self.form.model, endpoint.url))
        if not abouts:
            raise DistillError(f"{', '.join(self.config.urls)}: {silent[0]}; is the server running?")
        servers = {about.server for about in abouts}
        if self.config.server is None and len(servers) == 1:
            self.form = replace(self.form, server=servers.pop())
        contexts = [about.context for about in abouts if about.context is not None]
        if self.config.context is None and contexts:
            self.context = min(contexts)

    async def _models(self, endpoint: Endpoint) -> Any:
        """The server's list of models; None if it has none, the fault if nothing is there."""
        assert self._client is not None
        for left in reversed(range(FIRST_CONTACT)):
            try:
                async with asyncio.timeout(max(LIST_S, self.config.connect_s)):
                    return await self._client.get(f"{endpoint.url}/models")
            except TimeoutError:
                return None
            except Fault as fault:
                if fault.kind == "401":  # a 403 may only mean that this key may not list models
                    raise DistillError(f"{endpoint.url}: {fault}{self._hint()}") from fault
                if not fault.unreachable:
                    return None
                if not left:
                    return fault
            await asyncio.sleep(1.0)
        return None


@dataclass(frozen=True)
class _About:
    server: wire.Server = "openai"
    context: int | None = None


def _about(listed: Any, model: str, url: str) -> _About:
    """What a list of models says. Raises DistillError where a server of one's own does not have the model."""
    data = listed.get("data") if isinstance(listed, dict) else None
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    owners = {entry.get("owned_by") for entry in entries}
    server = next((server for server in OWNERS if server in owners), None)
    named = [entry for entry in entries if entry.get("id") == model]
    if server in ("vllm", "sglang") and not named:
        names = ", ".join(str(entry.get("id")) for entry in entries[:5])
        raise DistillError(f"{url}: serves no model `{model}`; set `served_name` to one that it has: {names}")
    if server == "llamacpp" and len(entries) == 1:
        named = entries  # it answers to any name
    if not named:
        return _About(server or "openai")
    entry = {**(named[0].get("meta") or {}), **named[0]}
    sizes = (entry.get(name) for name in CONTEXT_NAMES)
    context = next((size for size in sizes if isinstance(size, int) and size > 0), None)
    return _About(server or "openai", context)


def _keep(cache: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], value: Any) -> None:
    cache[key] = value
    if len(cache) > KEPT_PROMPTS:
        cache.popitem(last=False)


def _headers(config: Config) -> tuple[dict[str, str], list[str]]:
    """Headers that authorise, and the secrets in them. Raises ConfigError for a variable that is not set."""
    headers: dict[str, str] = {}
    variable = config.api_key_env
    if variable is None and _hosted(config) and not config.headers_env:
        variable = KEY_VARIABLE
    if variable is not None:
        headers["authorization"] = f"Bearer {_secret(variable, 'api_key_env')}"
    for name, variable in config.headers_env.items():
        headers[name.lower()] = _secret(variable, "headers_env")
    return headers, [value.removeprefix("Bearer ") for value in headers.values()]


def _hosted(config: Config) -> bool:
    return all(urlsplit(url).hostname == HOSTED for url in config.urls)


def _secret(variable: str, setting: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise ConfigError(
            f"engine `openai`: the environment variable {variable} is not set (export {variable}=..., or name another "
            f"in `{setting}`)"
        )
    return value
