"""The model as transformers runs it: what every file is compared with. P prefixes, V vocabulary entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import nf4

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.gguf.adapter import Onto


def load_graph(
    model: Path,
    adapter: Path | None = None,
    *,
    onto: Onto = "trained",
    layers: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Any:
    """The model of a folder in evaluation mode; an adapter stays beside its base, as peft runs it.

    A base that was in 4 bits while the adapter learnt has what they left of it, unless `onto` asks for it as stored.
    `layers` cuts the model to its first so many layers, embeddings and head kept.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from distill.gguf.adapter import adapter_parts

    base, over = adapter_parts(model, adapter)
    config = AutoConfig.from_pretrained(base)
    if layers is not None:
        config.num_hidden_layers = min(layers, config.num_hidden_layers)
        for per_layer in ("layer_types", "no_rope_layers"):
            if getattr(config, per_layer, None):
                setattr(config, per_layer, list(getattr(config, per_layer))[:layers])
    with quiet():  # of the weights that a slice leaves out
        graph: Any = AutoModelForCausalLM.from_pretrained(
            base, config=config, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
        if over is not None:
            from peft import PeftModel

            if onto == "trained" and (record := nf4.record_of(over)) is not None:
                nf4.through(graph, record)  # the base that the adapter learnt on
            graph = PeftModel.from_pretrained(graph, over)
    return graph.eval().to(device)


def reference_logprobs(
    model: Path,
    adapter: Path | None,
    layers: int | None,
    prefixes: Sequence[Sequence[int]],
    onto: Onto = "trained",
) -> NDArray[np.float64]:
    """transformers' log-probabilities after each prefix, [P, V], float32 arithmetic on the CPU.

    An adapter stays beside its base, so that a merge is compared with what was trained.
    """
    return logprobs_after(load_graph(model, adapter, onto=onto, layers=layers), prefixes)


def logprobs_after(graph: Any, prefixes: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """A loaded model's log-probabilities after each prefix, [P, V]."""
    import torch

    rows = []
    with torch.no_grad():
        for prefix in prefixes:
            logits_V = graph(torch.tensor([list(prefix)])).logits[0, -1]
            rows.append(torch.log_softmax(logits_V.double(), -1))
    reference_PV: NDArray[np.float64] = torch.stack(rows).numpy()
    return reference_PV


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back transformers' warnings about what is done here on purpose."""
    from transformers.utils import logging as its_logging

    logging: Any = its_logging  # it ships half of its types
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
