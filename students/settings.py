"""Settings of `student:`: which model learns, and which part of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from distill.core.config import Settings
from distill.core.device import DeviceName, DtypeName
from distill.core.models import ModelConfig

HEADS = ("lm_head", "embed_out", "output_layer", "score")
"""What model families call their output head."""


class Lora(Settings):
    """A low-rank adapter: the base stays frozen."""

    rank: PositiveInt = 16
    """Inner size of the adapter's two matrices."""
    alpha: PositiveInt = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is dropped while training."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers get an adapter, by the end of their names; `all-linear` is every one but the head."""

    @field_validator("targets")
    @classmethod
    def _no_head(cls, targets: str | list[str]) -> str | list[str]:
        wrapped = [name for name in targets if name.rpartition(".")[2] in HEADS] if isinstance(targets, list) else []
        if wrapped:
            raise ValueError(
                f"an adapter on the output head (`{wrapped[0]}`) cannot be trained here; leave it out, or train the "
                "full weights (`adapter: none`)"
            )
        if not targets:
            raise ValueError("names no layer; write `all-linear` or names such as [q_proj, v_proj]")
        return targets


def _adapter(value: object) -> object:
    """`none`, `lora`, `{lora: {rank: 8}}` and `{rank: 8}` in the form that is validated."""
    if value == "none":
        return None
    if value == "lora":
        return {}
    if isinstance(value, dict) and list(value) == ["lora"]:
        return {} if value["lora"] is None else value["lora"]
    if isinstance(value, str):
        raise ValueError(f"knows `none` and `lora`, not {value!r}")
    return value


class Config(ModelConfig):
    """Settings of `student:`."""

    adapter: Annotated[Lora | None, BeforeValidator(_adapter)] = None
    """`none` trains all weights; `lora`, or `{lora: {rank: 16, alpha: 32}}`, trains an adapter on the frozen base."""
    device: DeviceName = "auto"
    """Where it trains: auto, cuda, mps or cpu."""
    dtype: DtypeName = "auto"
    """Precision of the arithmetic. Full weights are kept in fp32 while they train, whatever this is."""

    @field_validator("model")
    @classmethod
    def _embedded(cls, model: str) -> str:
        return "embedded-student" if model == "embedded" else model
