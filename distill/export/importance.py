"""The importance matrix of a model, measured on token sequences: forward hooks average squared inputs by column.

As llama-imatrix does it, but on whole reasoning traces: what the model will be asked to do, thinking included, instead
of pieces of some text. One sequence is in memory at a time. T tokens, C columns.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.device import place
from distill.core.errors import DistillError
from distill.export.graph import load_graph

if TYPE_CHECKING:
    from distill.core.records import Trace
    from distill.gguf.adapter import Onto
    from distill.gguf.imatrix import ImportanceMatrix

CHUNK = 512
"""Tokens of a llama-imatrix chunk; only the header's count is in these."""
CHARACTERS = 6
"""Characters of traces that are kept for every token wanted: more than a token mostly has."""


def measure(
    model: Path,
    sequences: Iterable[Sequence[int]],
    *,
    adapter: Path | None = None,
    onto: Onto = "trained",
    dataset: str,
    most_tokens: int,
) -> ImportanceMatrix:
    """Mean squared inputs of every matrix in the layers, over sequences of ids until `most_tokens` are seen.

    `model`, `adapter` and `onto` as in `distill.gguf.convert.plan`; the adapter runs beside its base. Sequences longer
    than the context are cut to it. Raises DistillError if there is no sequence, or if a column's sum is not finite.
    """
    import numpy as np
    import torch

    from distill.gguf.adapter import open_weights
    from distill.gguf.architectures import ModelFolder
    from distill.gguf.imatrix import Entry, ImportanceMatrix

    folder, weights = open_weights(model, adapter)
    described = ModelFolder(folder)
    matrices = {
        tensor.source.removesuffix(".weight"): tensor
        for tensor in described.tensors(weights)
        if tensor.layer is not None and len(tensor.shape) > 1
    }
    placement = place()
    graph = load_graph(model, adapter, onto=onto, device=placement.device, dtype=placement.dtype)
    precise = torch.float32 if placement.device == "mps" else torch.float64  # which mps does not have
    sums = {name: torch.zeros(t.shape[1], dtype=precise, device=placement.device) for name, t in matrices.items()}
    hooks = []
    for name, module in graph.named_modules():
        # peft's wrapper of a layer is named as the layer was, behind `base_model.model.`; what is inside it is not.
        inner = name.removeprefix("base_model.model.")
        if inner in matrices:
            hooks.append(module.register_forward_pre_hook(_adder(sums[inner])))
    if len(hooks) != len(matrices):
        raise DistillError(f"{model}: {len(hooks)} of {len(matrices)} matrices are layers of the loaded model")
    seen = 0
    with torch.inference_mode():
        for ids in sequences:
            cut = list(ids[: min(int(described.config["max_position_embeddings"]), most_tokens - seen)])
            graph(torch.tensor([cut], device=placement.device), logits_to_keep=1, use_cache=False)
            seen += len(cut)
            if seen >= most_tokens:
                break
    for hook in hooks:
        hook.remove()
    if not seen:
        raise DistillError(f"{dataset}: there is no text to measure the importance matrix on")
    entries = {}
    for name, tensor in matrices.items():
        sums_C = sums[name].cpu().numpy().astype(np.float32)
        if not np.all(np.isfinite(sums_C)):
            raise DistillError(f"{model}: the inputs of {name} are not finite on {dataset}")
        entries[tensor.name] = Entry(sums_C, seen)
    return ImportanceMatrix(entries, dataset, max(1, seen // CHUNK), CHUNK, dataset)


def _adder(sum_C: Any) -> Any:
    def add(_: Any, inputs: tuple[Any, ...]) -> None:
        sum_C.add_(inputs[0].float().square().reshape(-1, sum_C.numel()).sum(0, dtype=sum_C.dtype))

    return add


def drawn(traces: Iterable[Trace], most_tokens: int) -> list[Trace]:
    """Traces enough for so many tokens, drawn by the hash of their keys: spread over the file and the same every time.

    Only those that are kept are in memory.
    """
    kept: list[tuple[int, int, str, Trace]] = []  # the largest hash first
    characters = 0
    for trace in traces:
        size = len(trace.reasoning or "") + len(trace.answer)
        place = int(hashlib.sha256(trace.key.encode()).hexdigest()[:12], 16)
        heapq.heappush(kept, (-place, size, trace.key, trace))
        characters += size
        while characters - kept[0][1] >= CHARACTERS * most_tokens:
            characters -= heapq.heappop(kept)[1]
    return [trace for *_, trace in sorted(kept, key=lambda entry: -entry[0])]


def ids_of(traces: Iterable[Trace], folder: Path) -> Iterator[list[int]]:
    """Each trace as this tokenizer has it: its template's prompt, then the completion, as drawn where the ids are its
    own, else its text.
    """
    from distill.core.fingerprint import tokenizer_fingerprint
    from distill.text.chat import load_tokenizer, render_prompt
    from distill.text.think import CLOSE, OPEN

    tokenizer, own = load_tokenizer(folder), tokenizer_fingerprint(folder)
    for trace in traces:
        prompt = render_prompt(tokenizer, trace.messages, thinking=trace.reasoning is not None)
        if trace.completion_ids and trace.tokenizer == own:
            yield [*prompt.ids, *trace.completion_ids]
            continue
        opening = "" if prompt.opened or trace.reasoning is None else f"{OPEN}\n"
        thinking = "" if trace.reasoning is None else f"{opening}{trace.reasoning}\n{CLOSE}\n\n"
        yield [*prompt.ids, *tokenizer(thinking + trace.answer, add_special_tokens=False)["input_ids"]]
