"""A stand-in for the vllm package, after the interface of vLLM 0.33: the same names, arguments, refusals and outputs.

What it draws and scores comes from transformers' forward of the model that it is given, one request a step in turn,
so that what the engine makes of ids, seeds, stop tokens and log-probabilities can be held against the truth. It shows
that the engine keeps to the interface as it is written down; that the real package keeps to it too, only a run on a
GPU can show (`benchmarks/gpu/vllm_engine.py`).
"""

from __future__ import annotations

import enum
import sys
import types
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")


@dataclass
class EngineArgs:
    model: str
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_logprobs: int = 20
    logprobs_mode: str = "raw_logprobs"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    trust_remote_code: bool = False
    disable_log_stats: bool = False
    seed: int = 0


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class _Running:
    prompt: list[int]
    params: SamplingParams
    generator: Any
    ids: list[int] = field(default_factory=list)
    rows: list[dict[int, Logprob]] = field(default_factory=list)


class LLMEngine:
    """vLLM's synchronous engine: `add_request`, then `step` until nothing is unfinished."""

    built: ClassVar[list[LLMEngine]] = []

    def __init__(self, arguments: EngineArgs) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert not arguments.trust_remote_code
        self.arguments = arguments
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
        self.eos = AutoTokenizer.from_pretrained(arguments.model).eos_token_id
        stated = self.model.config.max_position_embeddings
        self.model_config = types.SimpleNamespace(max_model_len=arguments.max_model_len or stated)
        self.engine_core = types.SimpleNamespace(shutdown=self._shutdown)
        self.running: dict[str, _Running] = {}
        self.aborted: list[str] = []
        self.most_at_once = 0
        self.ended = 0
        LLMEngine.built.append(self)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLMEngine:
        return cls(engine_args)

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        import torch

        ids = prompt["prompt_token_ids"]
        asked = max(params.logprobs or 0, params.prompt_logprobs or 0)
        if asked > self.arguments.max_logprobs:
            raise ValueError(f"Requested sample logprobs of {asked}, which is greater than max allowed")
        if len(ids) + (params.max_tokens or 0) > self.model_config.max_model_len:
            raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed)
        self.running[request_id] = _Running(list(ids), params, generator)
        self.most_at_once = max(self.most_at_once, len(self.running))
        return f"{request_id}-0a1b2c3d"  # an id of its own, as the real one gives; outputs carry the caller's

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            del self.running[name]
        self.aborted += request_ids

    def step(self) -> list[RequestOutput]:
        """One token for every running request; the outputs that are due."""
        due = [(name, self._advance(running)) for name, running in self.running.items()]
        outputs = []
        for name, reason in due:
            running = self.running[name]
            if reason is not None:
                del self.running[name]
            if reason is not None or running.params.output_kind is RequestOutputKind.CUMULATIVE:
                outputs.append(self._output(name, running, reason))
        return outputs[::-1]  # not in the order of the requests

    def _advance(self, running: _Running) -> str | None:
        import torch

        params = running.params
        with torch.inference_mode():
            logits_V = self.model(torch.tensor([running.prompt + running.ids])).logits[0, -1].float()
        raw_V = logits_V.log_softmax(-1)
        if params.temperature == 0:
            token = int(raw_V.argmax())
        else:
            probabilities_V = (logits_V / params.temperature).softmax(-1)
            assert (params.top_p, params.top_k) == (1.0, 0) or params.prompt_logprobs is None
            token = int(torch.multinomial(probabilities_V, 1, generator=running.generator))
        running.ids.append(token)
        if params.logprobs is not None:
            running.rows.append(_entries(raw_V, token, params.logprobs))
        if token == self.eos or token in (params.stop_token_ids or []):
            return "stop"
        return "length" if len(running.ids) >= (params.max_tokens or 16) else None

    def _output(self, name: str, running: _Running, reason: str | None) -> RequestOutput:
        rows = running.rows if running.params.logprobs is not None else None
        drawn = CompletionOutput(0, "", list(running.ids), None, rows, reason)
        return RequestOutput(name, None, running.prompt, self._prompt_rows(running), [drawn], reason is not None)

    def _prompt_rows(self, running: _Running) -> list[dict[int, Logprob] | None] | None:
        import torch

        if running.params.prompt_logprobs is None:
            return None
        with torch.inference_mode():
            rows_TV = self.model(torch.tensor([running.prompt])).logits[0].float().log_softmax(-1)
        later = [
            _entries(rows_TV[place], token, running.params.prompt_logprobs)
            for place, token in enumerate(running.prompt[1:])
        ]
        return [None, *later]  # nothing comes before the first token

    def _shutdown(self) -> None:
        self.ended += 1


def _entries(raw_V: Any, token: int, k: int) -> dict[int, Logprob]:
    """The token that is there first, then the k most probable: k + 1 entries where it is not among them."""
    values, ids = raw_V.topk(k)
    entries = {token: Logprob(float(raw_V[token]), int((raw_V >= raw_V[token]).sum()))}
    for rank, (value, other) in enumerate(zip(values.tolist(), ids.tolist(), strict=True), 1):
        entries.setdefault(other, Logprob(value, rank))
    return entries


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-in where `import vllm` finds it; the real package is left alone where it is installed."""
    package, params = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    for name, value in (("EngineArgs", EngineArgs), ("LLMEngine", LLMEngine), ("SamplingParams", SamplingParams)):
        setattr(package, name, value)
    params.RequestOutputKind = RequestOutputKind  # type: ignore[attr-defined]  # a module made by hand
    params.SamplingParams = SamplingParams  # type: ignore[attr-defined]  # the same
    package.sampling_params = params  # type: ignore[attr-defined]  # the same
    patch.setitem(sys.modules, "vllm", package)
    patch.setitem(sys.modules, "vllm.sampling_params", params)
