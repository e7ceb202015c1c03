"""Providers with an interface of their own (Anthropic, Bedrock, Vertex, Cohere ...), through the litellm package.

litellm translates one request and one reply; limits, retries, budgets and faults are ours, as with engine `openai`.
A server that speaks OpenAI's language is better asked through `openai`: fewer parts, token ids, streaming.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from distill.core.config import Unkeyed
from distill.core.errors import ConfigError, DistillError
from distill.core.plugins import require
from distill.core.protocols import Completion, Request
from distill.core.records import ModelIdentity
from distill.served import wire
from distill.served.endpoints import Endpoint, Endpoints
from distill.served.engine import ServedEngine
from distill.served.faults import Fault, masked, refused
from distill.served.settings import ServedSettings, declared

EXTRA = {"litellm": "litellm"}

SERVED = True
"""The provider has its own name for the model, which is no file or Hub id."""

SCORES = False
"""Providers give log-probabilities of what they draw, if any."""

LARGEST_ONLY = True
"""A server sends the largest log-probabilities of a token, never all of them."""


class Config(ServedSettings):
    """Settings of the `litellm` engine. The model is named as litellm names it: `anthropic/claude-...`."""

    served_name: Annotated[str | None, Unkeyed] = None
    """litellm's name of the model. None: as the teacher's `model`."""
    api_base: Annotated[str | None, Unkeyed] = None
    """Address of the provider, where it is not its usual one."""
    api_key_env: Annotated[str | None, Unkeyed] = None
    """Environment variable that holds the key. None: the provider's usual one."""
    options: Annotated[dict[str, Any], Unkeyed] = Field(default_factory=dict)
    """What else litellm is called with, under its own names (`{vertex_project: mine}`); nothing that shapes answers."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """The declared identity: name, revision and precision."""
    return declared(model, revision, config.precision)


def build(config: Config, model: str, revision: str | None = None) -> ServedEngine:
    """Make the engine. Raises MissingExtra without litellm, ConfigError for a key that is not in the environment."""
    endpoints = Endpoints([config.api_base or "litellm"])
    return ServedEngine("litellm", identify(config, model, revision), config, Sender(config, model), endpoints)


def prices(config: Config, model: str) -> tuple[float, float] | None:
    """(input, output) price of a million tokens in dollars, from the table that came with litellm; None: not there."""
    entry = _litellm().model_cost.get(config.served_name or model)
    if entry is None and "/" in (config.served_name or model):
        entry = _litellm().model_cost.get((config.served_name or model).partition("/")[2])
    if entry is None or "input_cost_per_token" not in entry or "output_cost_per_token" not in entry:
        return None
    return entry["input_cost_per_token"] * 1e6, entry["output_cost_per_token"] * 1e6


def _litellm() -> Any:
    """The package, told to fetch nothing and to stay quiet."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or importing it downloads a price list
    package: Any = require("engine `litellm`", "litellm", EXTRA["litellm"])
    package.telemetry = False
    package.suppress_debug_info = True
    return package


class Sender:
    """One try through litellm."""

    def __init__(self, config: Config, model: str) -> None:
        self.config = config
        self.remarks = wire.Remarks()
        self.form = wire.Form(config.served_name or model, send_seed=config.send_seed)
        self.heard: Callable[[dict[str, Any], Any], None] | None = None
        """Told of every body that was sent and the raw reply to it."""
        self._litellm = _litellm()
        self._key = _key(config, self.form.model, self._litellm)

    async def open(self) -> None:
        """Nothing to do: litellm keeps its own connections."""

    async def close(self) -> None:
        """Close litellm's connections, which belong to this loop."""
        close = getattr(self._litellm, "close_litellm_async_clients", None)
        if close is not None:
            await close()

    async def check(self, request: Request) -> None:
        """Refuse what cannot fit the context, as far as it is known, and a prefix."""
        name, limit, context = self.form.model, request.sampling.max_tokens, self.config.context
        if request.prefix_ids:
            raise DistillError(f"model {name}: engine `litellm` cannot continue an answer")
        if context is not None and limit >= context:
            raise DistillError(
                f"model {name}: a prompt and max_tokens {limit} need a context of {limit + 1}, it has {context}; "
                "set max_tokens to less"
            )

    def worst(self, request: Request) -> tuple[int, int]:
        """Bytes bound the prompt, `max_tokens` the answer."""
        return wire.prompt_bound(request.messages), request.sampling.max_tokens

    async def send(self, request: Request, endpoint: Endpoint) -> Completion:
        """One try, without litellm's own retries. Raises Fault."""
        del endpoint
        more = {"api_base": self.config.api_base, "api_key": self._key}
        asked = wire.body(request, self.form) | {name: value for name, value in more.items() if value is not None}
        clash = sorted(set(asked) & set(self.config.options))
        if clash:
            raise DistillError(f"engine `litellm`: `options` sets {', '.join(clash)}, which a setting sets already")
        total_s = self.config.total_s
        try:
            async with asyncio.timeout(total_s + 1):
                reply = await self._litellm.acompletion(
                    **asked, **self.config.options, timeout=total_s, max_retries=0, num_retries=0, drop_params=False
                )
            whole = reply.model_dump()
        except TimeoutError as error:
            raise Fault("timeout", f"no whole answer within {total_s:g} s") from error
        except Exception as error:  # litellm turns what providers send into errors of many kinds, its own slips too
            raise self._fault(error) from error
        if self.heard is not None:
            self.heard(wire.body(request, self.form), whole)
        return wire.parse(whole, request, self.form, None, self.remarks)

    def _fault(self, error: Exception) -> Fault:
        secrets = [self._key] if self._key else []
        text = masked(" ".join(str(error).split())[:300] or type(error).__name__, secrets)
        if isinstance(error, self._litellm.Timeout):
            return Fault("timeout", text, at_endpoint=True)
        if isinstance(error, self._litellm.APIConnectionError):
            return Fault("reset", text, at_endpoint=True)
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return Fault("litellm", f"{type(error).__name__}: {text}")
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        lower = {str(name).lower(): str(value) for name, value in dict(headers).items()}
        body = json.dumps({"error": {"message": text, "code": getattr(error, "code", None)}}).encode()
        return refused(status, lower, body, secrets)


def _key(config: Config, model: str, package: Any) -> str | None:
    """The key of a named variable. Raises ConfigError if it, or the provider's own, is not set."""
    if config.api_key_env is not None:
        value = os.environ.get(config.api_key_env, "").strip()
        if not value:
            raise ConfigError(
                f"engine `litellm`: the environment variable {config.api_key_env} is not set (export "
                f"{config.api_key_env}=..., or name another in `api_key_env`)"
            )
        return value
    if config.api_base is None and "mock_response" not in config.options:
        missing = package.validate_environment(model=model).get("missing_keys") or []
        if missing:
            raise ConfigError(
                f"engine `litellm`: model {model} needs the environment variables {', '.join(missing)} (or name yours "
                "in `api_key_env`)"
            )
    return None
