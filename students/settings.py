"""Settings of `student:`: which model learns, and which part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from distill.core.config import Settings, Unkeyed
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
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, so that a large rank learns as fast as a small one (arXiv 2312.03732)."""
    dora: bool = False
    """Train each output's length apart from its direction (DoRA, arXiv 2402.09353): dearer, for small ranks."""
    nf4: bool = False
    """Hold the frozen base in 4 bits (QLoRA, arXiv 2305.14314): NF4 with its scales quantised once more. Written
    `adapter: qlora` or `{qlora: {...}}`."""

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


def template_file(template: str) -> Path:
    """Where a template is: a name of `students/templates`, else the path itself."""
    packaged = Path(__file__).parent / "templates" / f"{template}.jinja"
    return packaged if packaged.is_file() else Path(template).expanduser()


def _adapter(value: object) -> object:
    """`none`, `lora`, `qlora`, `{lora: {rank: 8}}`, `{qlora: {rank: 8}}`, `{rank: 8}` in the form that is validated."""
    if value == "none":
        return None
    if isinstance(value, str):
        value = {value: {}}
    if isinstance(value, dict) and len(value) == 1 and not set(value) & set(Lora.model_fields):
        ((name, rest),) = value.items()
        if not isinstance(rest, dict | None):
            return value  # a setting that an adapter does not have
        if name not in ("lora", "qlora"):
            raise ValueError(f"knows `none`, `lora` and `qlora`, not {name!r}")
        rest = rest or {}
        if name == "lora":
            return rest
        if not rest.get("nf4", True):
            raise ValueError("`qlora` holds the base in 4 bits, and `nf4: false` does not; write `lora`")
        return {**rest, "nf4": True}
    return value


class Config(ModelConfig):
    """Settings of `student:`."""

    adapter: Annotated[Lora | None, BeforeValidator(_adapter)] = None
    """`none` trains all weights; `lora`, or `{lora: {rank: 16, alpha: 32}}`, trains an adapter on the frozen base;
    `qlora` does so on a base of 4 bits a weight."""
    template: Annotated[str, Unkeyed] = "own"
    """Chat template: `own` is the student's, `teacher` the teacher's, `think` one that comes with the package, for base
    models without; anything else the file to take it from."""
    think_tokens: Literal["text", "spare-ids", "add"] = "text"
    """How it writes `<think>` where its tokenizer has no such tokens: as ordinary `text`; as `spare-ids`, ids of
    its vocabulary that stand for nothing yet (the teacher's own, where they are free); or `add`, new rows."""
    device: DeviceName = "auto"
    """Where it trains: auto, cuda, mps or cpu."""
    dtype: DtypeName = "auto"
    """Precision of the arithmetic. Full weights are kept in fp32 while they train, whatever this is."""

    @field_validator("template")
    @classmethod
    def _readable(cls, template: str) -> str:
        if template not in ("own", "teacher") and not template_file(template).is_file():
            raise ValueError(f"is `own`, `teacher`, `think` or a file; there is no file {template}")
        return template

    @field_validator("model")
    @classmethod
    def _embedded(cls, model: str) -> str:
        return "embedded-student" if model == "embedded" else model
