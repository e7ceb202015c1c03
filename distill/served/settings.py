"""Settings that every engine that buys answers has: how many at once, how fast, how patiently."""

from __future__ import annotations

from typing import Annotated

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from distill.core.config import Settings, Unkeyed, digest
from distill.core.records import ModelIdentity


class ServedSettings(Settings):
    """What engines of served models share."""

    precision: str | None = None
    """What the model is served in (`bf16`, `fp8`, `awq`): answers of other precisions are kept apart."""
    context: Annotated[PositiveInt | None, Unkeyed] = None
    """Tokens that prompt and answer may have together. None: as the server says, where it says."""
    send_seed: bool = True
    """Whether each answer's own seed is sent; off for servers that refuse one."""
    concurrency: Annotated[PositiveInt, Unkeyed] = 32
    """Answers in flight at once, over all endpoints."""
    requests_per_minute: Annotated[PositiveInt | None, Unkeyed] = None
    """Tries sent in any minute at most, failed ones included."""
    tokens_per_minute: Annotated[PositiveInt | None, Unkeyed] = None
    """Tokens (prompt and answer) of the tries sent in any minute at most."""
    retries: Annotated[NonNegativeInt, Unkeyed] = 8
    """Further tries of an answer whose try failed in a way that may pass."""
    total_s: Annotated[PositiveFloat, Unkeyed] = 3600.0
    """Longest wait for a whole answer."""


def declared(model: str, revision: str | None, precision: str | None) -> ModelIdentity:
    """The identity of a served model: what the experiment declares. A server cannot be hashed, and its address says
    nothing of its weights.
    """
    return ModelIdentity(id=digest(["served", model, revision, precision])[:32], name=model)
