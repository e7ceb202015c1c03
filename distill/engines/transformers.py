"""Any causal language model that transformers loads, on this machine's CPU or GPU.

Our own loop around the model's forward (`distill.decoding`). Many answers are drawn side by side; each has its own
noise, and on a CPU in float32 its logits do not depend on the rows beside it either, so what is drawn for a request is
the same alone, in any company and after any interruption.

Identical prompts are read once, without their last token; that token is fed by the first step. Two batches are worked
in turn: a young one of fresh prompts, and, once half of its answers have ended, an old one that the rest joins, so that
rows are of similar length and batches are never nearly empty.

Shapes: B rows, T tokens, L cached tokens, N completion tokens, V vocabulary entries, K recorded entries.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import PositiveInt

from distill import nf4
from distill.core import models
from distill.core.config import Settings, Unkeyed, digest
from distill.core.device import DeviceName, DtypeName, Placement, place
from distill.core.errors import DistillError
from distill.core.models import base_of, resolve
from distill.core.protocols import Codec, Completion, Keep, Request, SampledLogprobs, ScoreRequest, TokenLogprobs
from distill.core.records import FinishReason, Message, ModelIdentity, Sampling
from distill.text.think import thinking_length

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.decoding.batch import Batch, Row
    from distill.decoding.cache import Layers, RowCache
    from distill.text.chat import Prompt

T = TypeVar("T")

SLOTS = {"cpu": 128, "cuda": 256, "mps": 128}
"""Rows of a batch where memory allows."""

CACHE_BYTES = 1 << 30
"""Memory for keys and values on a CPU, two batches together. On a GPU it is `CACHE_SHARE` of what is free."""
CACHE_SHARE = 0.4

UNBOUNDED = 1 << 20
"""Context of a model that states none."""

SMALL_BYTES = 64 << 20
"""Weights up to this size stay in a processor's cache: each core then works batches of its own."""

SCORE_LOGITS = 1 << 25
"""Logits held at a time while scoring: 128 MiB in float32."""


class Config(Settings):
    """Settings of the `transformers` engine."""

    device: DeviceName = "auto"
    """cuda, mps or cpu; auto takes the first that is there."""
    dtype: DtypeName = "auto"
    """bf16, fp16 or fp32; auto takes what suits the device (fp32 on a CPU)."""
    quantization: Literal["nf4"] | None = None
    """`nf4` loads the weights in 4 bits (bitsandbytes, extra `qlora`), the head aside: a quarter of the memory, and
    another model: answers and log-probabilities are kept apart from those in full."""
    slots: Annotated[PositiveInt | None, Unkeyed] = None
    """Answers drawn side by side. None: as many as memory allows, up to 128 on a CPU and 256 on a GPU."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """Content hash of a model folder; of an adapter folder together with its base model's.

    A precision that was asked for is part of it: answers in bf16 do not stand for those in fp32, nor those in 4 bits.
    """
    _folder(model, revision)
    own = models.identify(model, revision)
    held = [] if config.quantization is None else [config.quantization]
    if config.dtype == "auto" and not held:
        return own
    return replace(own, id=digest([own.id, config.dtype, *held])[:32])


def build(config: Config, model: str, revision: str | None = None) -> TransformersEngine:
    """Load the model. Raises DistillError where that cannot be, or where its tokenizer does not fit it."""
    return TransformersEngine(config, model, revision)


def codec(config: Config, model: str, revision: str | None = None) -> Codec:
    """The model's tokenizer alone; an adapter's, where it brings one, else its base's."""
    from distill.text.chat import TokenizerCodec

    del config
    folder = _folder(model, revision)
    base = base_of(folder)
    return TokenizerCodec(folder if base is None or (folder / "tokenizer.json").exists() else _folder(base))


class TransformersEngine:
    """A loaded model and the loop around it."""

    name = "transformers"

    def __init__(self, config: Config, model: str, revision: str | None = None) -> None:
        import torch
        from transformers import GenerationConfig

        from distill.text.chat import load_tokenizer, stop_ids

        folder = _folder(model, revision)
        base = base_of(folder)
        whole = folder if base is None or (folder / "tokenizer.json").exists() else _folder(base)
        placement = place(config.device, config.dtype)
        tokenizer = load_tokenizer(whole)
        loaded = _load(folder, base, placement, config.quantization is not None)
        with_settings = [f for f in (folder, whole) if (f / "generation_config.json").exists()]
        read = GenerationConfig.from_pretrained
        generation = read(with_settings[0]) if with_settings else loaded.generation_config
        stops = frozenset(stop_ids(tokenizer, generation))
        if not stops:
            raise DistillError(f"{folder}: neither generation_config.json nor the tokenizer names a token to stop at")
        self._slots = config.slots
        self._take(loaded, tokenizer, stops, placement, identify(config, model, revision), folder)
        weights_bytes = sum(p.numel() * p.element_size() for p in self._model.parameters())
        self._small = placement.device == "cpu" and weights_bytes <= SMALL_BYTES
        self._workers = torch.get_num_threads() if self._small else 1
        self._find_shapes()

    @classmethod
    def around(
        cls, model: Any, tokenizer: Any, stops: frozenset[int], placement: Placement, identity: ModelIdentity
    ) -> TransformersEngine:
        """An engine on a model that is in memory and stays its owner's: a student while it trains.

        It works in the caller's thread alone, so that the caller's autocast holds. The owner puts the model into
        evaluation mode before, and does not `close` the engine to free it.
        """
        engine = cls.__new__(cls)
        engine._slots, engine._small, engine._workers = None, False, 1
        engine._take(model, tokenizer, stops, placement, identity, Path(identity.name))
        engine._find_shapes()
        return engine

    def _take(
        self, model: Any, tokenizer: Any, stops: frozenset[int], placement: Placement, identity: ModelIdentity,
        folder: Path,
    ) -> None:  # fmt: skip
        """Hold a model with its text side; `folder` is what errors name."""
        import torch

        from distill.text.chat import vocabulary_size

        self.identity, self.placement, self.stops, self.tokenizer = identity, placement, stops, tokenizer
        self.device = torch.device(placement.device)
        self._model = model
        self.vocab_size = vocabulary_size(tokenizer)
        rows = model.get_input_embeddings().weight.shape[0]
        if self.vocab_size > rows:
            raise DistillError(f"{folder}: the tokenizer has {self.vocab_size} entries, the model only {rows} rows")
        self._stops_V = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
        self._stops_V[[stop for stop in self.stops if stop < self.vocab_size]] = True
        self._dtype: torch.dtype = getattr(torch, placement.dtype)
        self._shape = model.config.get_text_config()
        self._windows = _attention_windows(self._shape, folder)
        self.context: int | None = getattr(self._shape, "max_position_embeddings", None)

    def _find_shapes(self) -> None:
        """Shapes at which a row's bits do not depend on its company, where this device has such."""
        import torch

        from distill.decoding.steady import LOOSE, measure

        self.shapes = LOOSE
        if self.device.type == "cpu" and self._dtype == torch.float32:
            most = max(SLOTS["cpu"], self._slots or 0)
            (self.shapes,) = self._spread(lambda: iter([measure(self._model, most)]), 1)

    def close(self) -> None:
        """Free the model."""
        import gc

        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    # ---- generate

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request as each ends; see `Engine.generate`."""
        from distill.decoding.batch import Batch

        planned = self._plan(requests)
        pending = sorted((row for row in planned if not self._over(row)), key=lambda row: (len(row.fed), row.fed))
        for row in filter(self._over, planned):
            yield self._completion(row)
        slots, top_k = self._slots_for(pending), max((row.sampling.top_logprobs for row in pending), default=0)
        softer = sorted({t for row in pending for t in row.sampling.logprob_temperatures})
        lock = threading.Lock()

        def take() -> list[Row]:
            """The next rows of one worker: a batch, or its share of what is left."""
            with lock:
                n = min(slots, -(-len(pending) // self._workers))
                taken = pending[:n]
                del pending[:n]
                return taken

        def work() -> Iterator[Completion]:
            """A young batch and an old one in turn, until nothing is left to take."""
            old: Batch | None = None
            while rows := take():
                young = Batch(self, rows, slots, top_k, softer)
                if pending or old is not None:
                    yield from self._run(young, until=slots // 2)
                if old is not None:
                    old.join(young)
                old = old or young
                yield from self._run(old, until=slots // 2 if pending else 0)
                old = old if old.alive else None
            if old is not None:
                yield from self._run(old, until=0)

        yield from self._spread(work, self._workers)

    def _spread(self, work: Callable[[], Iterator[T]], n: int) -> Iterator[T]:
        """Run `work` on the cores: in `n` workers for a small model, else once, its operations split up by torch."""
        import torch

        from distill.decoding.threads import side_by_side

        alone = n == 1 and (torch.get_num_threads() == 1 or not self._small)
        return work() if alone else side_by_side(work, n)

    def stream(self, messages: Sequence[Message], sampling: Sampling, key: str = "") -> Iterator[str]:
        """Yield one answer's text in pieces as it is drawn; half a character waits for its other half.

        The first piece is the think block that the template opened, where it did. `key` seeds the noise, as a request's
        does. Raises DistillError as `generate` does.
        """
        from distill.decoding.batch import Batch

        rows = self._plan([Request(key, tuple(messages), sampling)])
        batch = Batch(self, rows, self.shapes.rows, 0)
        prompt: Prompt = rows[0].tag[1]
        if prompt.opened:
            yield self.decode(prompt.prefill_ids)
        shown = 0
        while batch.alive:
            ended = batch.step()
            text = self._completion(ended[0]).text if ended else self.decode(batch.drawn(0))
            if ended or not text.endswith("\ufffd"):
                yield text[shown:]
                shown = len(text)

    def room(self, messages: Sequence[Message], thinking: bool | None = None) -> int:
        """Tokens that an answer to these messages may have."""
        from distill.text.chat import render_prompt

        prompt = render_prompt(self.tokenizer, messages, thinking)
        return max(0, (self.context or UNBOUNDED) - len(prompt.ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included."""
        from distill.text.chat import decode

        return decode(self.tokenizer, ids)

    def _plan(self, requests: Iterable[Request]) -> list[Row]:
        """Turn messages into ids; refuse, before anything is drawn, what cannot fit the context."""
        from distill.decoding.batch import Row
        from distill.decoding.draw import noise_of
        from distill.text.chat import render_prompt

        prompts: dict[tuple[tuple[Message, ...], bool | None], Prompt] = {}
        rows = []
        for request in requests:
            request.sampling.numbers()
            asked = (request.messages, request.sampling.thinking)
            if asked not in prompts:
                prompts[asked] = render_prompt(self.tokenizer, *asked)
            prompt, prefix, limit = prompts[asked], request.prefix_ids, request.sampling.max_tokens
            needed = len(prompt.ids) + max(limit, len(prefix))
            if self.context is not None and needed > self.context:
                raise DistillError(
                    f"model {self.identity.name}: a prompt of {len(prompt.ids)} tokens and max_tokens {limit} need a "
                    f"context of {needed}, the model has {self.context}; set max_tokens to at most "
                    f"{max(0, self.context - len(prompt.ids))} or shorten the prompt"
                )
            noise = noise_of(request.key)
            noise.random(len(prefix))  # the prefix used up its share
            rows.append(Row(prompt.ids + prefix, limit - len(prefix), request.sampling, noise, tag=(request, prompt)))
        return rows

    def _over(self, row: Row) -> bool:
        """Whether a prefix already ended, or is as long as the answer may be."""
        request: Request = row.tag[0]
        return row.limit <= 0 or (bool(request.prefix_ids) and request.prefix_ids[-1] in self.stops)

    def _run(self, batch: Batch, until: int) -> Iterator[Completion]:
        while batch.alive > until:
            for row in batch.step():
                yield self._completion(row)

    def _completion(self, row: Row) -> Completion:
        request, prompt = row.tag
        said = request.prefix_ids + row.ids
        stopped = bool(said) and said[-1] in self.stops
        reason: FinishReason = "stop" if stopped else "length"
        return Completion(
            key=request.key,
            text=self.decode(row.ids[:-1] if stopped else row.ids),
            finish_reason=reason,
            prompt_ids=prompt.prompt_ids,
            prefill_ids=prompt.prefill_ids,
            completion_ids=row.ids,
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(row.ids),
            opened=prompt.opened,
            latency_s=time.monotonic() - row.started_s if row.started_s else 0.0,
            logprobs=row.logprobs,
            reasoning_tokens=thinking_length(row.ids, self.decode),
        )

    def _slots_for(self, rows: Sequence[Row]) -> int:
        """Rows of a batch: as set, or as many of the longest as the memory for keys and values holds."""
        if not rows:
            return self.shapes.rows
        most = self._slots
        if most is None:
            shape = self._shape
            heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
            width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
            tokens = max(len(row.fed) + row.limit for row in rows)
            each_bytes = 2 * shape.num_hidden_layers * heads * width * self._dtype.itemsize * tokens
            most = max(1, min(SLOTS[self.device.type], self._cache_bytes() // (2 * self._workers * each_bytes)))
        share = -(-len(rows) // self._workers)
        return -(-min(most, share) // self.shapes.rows) * self.shapes.rows

    def _cache_bytes(self) -> int:
        if self.device.type != "cuda":
            return CACHE_BYTES
        import torch

        return int(CACHE_SHARE * torch.cuda.mem_get_info(self.device)[0])

    # ---- the model's forward (`distill.decoding.batch.Stepper`)

    def read(self, ids_BT: Tensor) -> Layers:
        """Keys and values of each layer for whole prompts, right-padded; their logits are not wanted."""
        from transformers import DynamicCache

        cache = DynamicCache()
        self._model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    def step(self, feed_B: Tensor, cache: RowCache) -> Tensor:
        """Feed one token a row where the cache points; float32 logits [B, V], cut to the tokenizer's entries."""
        import torch

        length_B1 = cache.length_B[:, None]
        place_1L = torch.arange(cache.span, device=self.device)[None]
        masks = {}
        for kind, window in self._windows.items():
            seen_BL = place_1L <= length_B1
            if window is not None:
                seen_BL &= place_1L > length_B1 - window
            mask_BL = torch.zeros(seen_BL.shape, dtype=self._dtype, device=self.device)
            masks[kind] = mask_BL.masked_fill_(~seen_BL, torch.finfo(self._dtype).min)[:, None, None]
        output = self._model(
            input_ids=feed_B[:, None],
            position_ids=length_B1,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1, : self.vocab_size].float()
        return logits_BV.cpu() if self.device.type == "mps" else logits_BV  # mps knows no float64

    def ends(self, ids_B: Tensor) -> Tensor:
        """Which ids end an answer."""
        return self._stops_V[ids_B.to(self.device)]

    # ---- score

    def score(
        self, requests: Iterable[ScoreRequest], keep: Keep
    ) -> Iterator[tuple[str, TokenLogprobs | SampledLogprobs]]:
        """Yield what is to be kept of given completion tokens' distributions; see `Engine.score`."""
        from distill.decoding.batch import padded

        asked = sorted(requests, key=_tokens_of)
        for request in asked:
            tokens = _tokens_of(request)
            if not request.prompt_ids or not request.completion_ids or (self.context and tokens > self.context):
                raise DistillError(
                    f"model {self.identity.name}: cannot score {request.key[:12]}: {len(request.prompt_ids)} prompt "
                    f"and {len(request.completion_ids)} completion tokens, in a context of {self.context}"
                )
            if max(request.prompt_ids + request.completion_ids) >= self.vocab_size:
                raise DistillError(
                    f"model {self.identity.name}: cannot score {request.key[:12]}: it has ids of another tokenizer "
                    f"(this one has {self.vocab_size} entries)"
                )
        groups: deque[tuple[int, list[ScoreRequest]]] = deque()
        for width, same in groupby(asked, key=lambda request: padded(_tokens_of(request))):
            group = list(same)
            rows = max(1, min(self.shapes.prefill // width, SCORE_LOGITS // (self.vocab_size * width)))
            groups.extend((width, group[at : at + rows]) for at in range(0, len(group), rows))

        def work() -> Iterator[tuple[str, TokenLogprobs | SampledLogprobs]]:
            while True:
                try:
                    width, group = groups.popleft()
                except IndexError:
                    return
                yield from self._score(group, width, keep)

        yield from self._spread(work, self._workers)

    def _score(
        self, group: list[ScoreRequest], width: int, keep: Keep
    ) -> Iterator[tuple[str, TokenLogprobs | SampledLogprobs]]:
        """Score requests of one padded width, in pieces of the width where the vocabulary is large."""
        import torch
        from transformers import DynamicCache

        from distill.decoding.record import recorder

        ids_BT = torch.zeros((len(group), width), dtype=torch.int64)
        for b, request in enumerate(group):
            ids_BT[b, : _tokens_of(request)] = torch.tensor(request.prompt_ids + request.completion_ids)
        ids_BT = ids_BT.to(self.device)
        first_logit = min(len(request.prompt_ids) for request in group) - 1
        piece = max(1, SCORE_LOGITS // (self.vocab_size * len(group)))
        recorders = [recorder(keep, request.key) for request in group]
        cache = DynamicCache(config=self._model.config)
        with torch.inference_mode():
            for start in range(0, width, piece):
                stop = min(start + piece, width)
                kept = max(1, min(stop - start, stop - first_logit))
                output = self._model(
                    input_ids=ids_BT[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=kept
                )
                logits_BTV = output.logits[..., : self.vocab_size]
                for b, request in enumerate(group):
                    low = max(len(request.prompt_ids) - 1, stop - kept)
                    high = min(_tokens_of(request) - 1, stop)
                    if low >= high:
                        continue
                    part_NV = logits_BTV[b, low - (stop - kept) : high - (stop - kept)]
                    drawn_N = ids_BT[b, low + 1 : high + 1]
                    if self.device.type == "mps":
                        part_NV, drawn_N = part_NV.cpu(), drawn_N.cpu()
                    recorders[b].add(part_NV, drawn_N)
        for request, recorded in zip(group, recorders, strict=True):
            yield request.key, recorded.rows()


def _tokens_of(request: ScoreRequest) -> int:
    return len(request.prompt_ids) + len(request.completion_ids)


def _folder(model: str, revision: str | None = None) -> Path:
    path = resolve(model, revision)
    if not path.is_dir():
        raise DistillError(f"engine `transformers`: {path} is not a model folder; a .gguf file needs engine `llamacpp`")
    return path


def _load(folder: Path, base: str | None, placement: Placement, quantised: bool = False) -> Any:
    """The model, in evaluation mode and in place; an adapter is merged into its base.

    One that was trained on a base in 4 bits stays apart, on such a base: it is measured in the graph it was trained in.
    """
    if quantised and base is not None:
        raise DistillError(
            f"{folder}: is an adapter, and `quantization` takes whole models; merge it (`distill export`)"
        )
    import torch
    from transformers import AutoModelForCausalLM

    whole = folder if base is None else _folder(base)
    in_4_bits = base is not None and nf4.record_of(folder) is not None
    model: Any
    try:
        with _quiet():
            if quantised:
                return nf4.load(folder, placement).eval()
            if in_4_bits:
                return _on_4_bits(folder, whole, placement).eval()
            model = AutoModelForCausalLM.from_pretrained(
                whole, dtype=getattr(torch, placement.dtype), use_safetensors=True, trust_remote_code=False
            )
            if base is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DistillError(f"{folder}: transformers cannot load it ({reason})") from error
    return model.eval().to(placement.device)


def _on_4_bits(folder: Path, base: Path, placement: Placement) -> Any:
    """The base in 4 bits with the adapter's layers in it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(nf4.load(base, placement), folder).get_base_model()


def _attention_windows(shape: Any, folder: Path) -> dict[str, int | None]:
    """How far back each kind of the model's attention layers looks; None is all the way."""
    kinds = sorted(set(getattr(shape, "layer_types", None) or ()))
    window: int | None = getattr(shape, "sliding_window", None)
    if not kinds:
        return {"full_attention": window}
    if unknown := [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]:
        raise DistillError(
            f"{folder}: has layers of kind {', '.join(unknown)}; engine `transformers` knows full and sliding attention"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars; ours say what a person needs to see."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
