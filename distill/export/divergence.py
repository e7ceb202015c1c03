"""Tier 3, distribution by distribution: how far a file under llama.cpp is from the model, on texts it never saw.

P measured positions, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.export.graph import load_graph, quiet
from distill.export.proof import Check, probe_chats
from distill.export.runtime import Questions, ask
from distill.gguf.runtime import ServerEnded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.export.source import Source
    from distill.gguf.adapter import Onto

MOST_POSITIONS = 128
MOST_ENTRIES = 8_000_000
"""Probabilities that llama.cpp's server is asked for, each a few dozen bytes of JSON: fewer positions where the
vocabulary is large."""
MOST_TOKENS = 2048
"""Tokens of a text that are looked at."""
OWN_TOKENS = 64
"""Tokens of an answer that the model is asked for itself."""

KL_LIMIT = {
    "f32": 1e-5, "f16": 1e-4, "bf16": 2e-3, "q8_0": 0.01, "q6_k": 0.03, "q5_k_m": 0.06, "q5_k_s": 0.08, "q5_1": 0.08,
    "q5_0": 0.08, "q4_k_m": 0.2, "q4_k_s": 0.25, "q4_1": 0.3, "q4_0": 0.4, "iq4_nl": 0.3, "iq4_xs": 0.3,
    "q3_k_l": 0.6, "q3_k_m": 0.7, "q3_k_s": 1.0, "q2_k": 2.0,
}  # fmt: skip
"""Highest mean KL(model || file) in nats on held-out traces, by the file's type: four times and more what the embedded
models and stories260k, all trained, come to."""
ELSEWHERE = 10
"""By how much that bound rises on other texts: tiny models with random weights, on their own random answers, come to up
to five times the figures above, and that is no fault of the file."""

WORDS = {"trained": "it was trained on", "stored": "its folder stores it"}


@dataclass(frozen=True)
class Text:
    """Ids whose tokens from `start` on are the model's own to predict: an answer behind its prompt."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Reference:
    """The model's own distributions: log-probabilities after each prefix, [P, V] float32, computed in float32."""

    prefixes: list[list[int]]
    logprobs_PV: NDArray[np.float32]


def positions(texts: Sequence[Text], vocabulary: int) -> list[tuple[int, int]]:
    """(text, length of the prefix) of the positions that are measured, spread evenly over all answers' tokens."""
    every = [
        (number, length)
        for number, text in enumerate(texts)
        for length in range(max(1, text.start), min(len(text.ids), MOST_TOKENS))
    ]
    count = min(len(every), MOST_POSITIONS, max(16, MOST_ENTRIES // vocabulary))
    return [every[place * len(every) // count] for place in range(count)]


def own_texts(source: Source) -> list[Text]:
    """The model's own greedy answers to the proof's conversations: what it says when nothing else is at hand.

    Without a chat template it goes on from a few plain words.
    """
    import torch
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(source.tokenizer, trust_remote_code=False)
    prompts = [ids for _, arguments, ids in probe_chats(auto) if not arguments]
    prompts = prompts or [auto(text)["input_ids"] for text in ("The sum of 17 and 23", "Once upon a time")]
    graph = load_graph(source.model, source.adapter, onto=source.onto)
    texts = []
    for prompt in prompts:
        with quiet(), torch.inference_mode():
            ids = graph.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=OWN_TOKENS, do_sample=False,
            )[0]  # fmt: skip
        texts.append(Text(tuple(ids.tolist()), len(prompt)))
    return texts


def reference(
    model: Path, adapter: Path | None, texts: Sequence[Text], vocabulary: int, onto: Onto = "trained"
) -> Reference:
    """What the model says at the measured positions: one forward pass a text. `vocabulary` is its number of entries."""
    import numpy as np
    import torch

    chosen = positions(texts, vocabulary)
    graph = load_graph(model, adapter, onto=onto)
    rows = []
    with torch.inference_mode():
        for number, text in enumerate(texts):
            lengths = [length for which, length in chosen if which == number]
            if lengths:
                ids = torch.tensor([list(text.ids[: lengths[-1]])])
                logits_NV = graph(ids, logits_to_keep=torch.tensor(lengths) - 1).logits[0]
                rows.append(torch.log_softmax(logits_NV.double(), -1).float().numpy())
    prefixes = [list(texts[number].ids[:length]) for number, length in chosen]
    return Reference(prefixes, np.concatenate(rows))


def compare(
    file: Path, kind: str, against: Reference, *, held_out: bool, plain: int, log: Path, timeout_s: float = 1800.0
) -> Check:
    """KL(model || file) in nats and the share of positions where both find the same token most probable.

    The bound is `KL_LIMIT` of the file's type `kind`; `held_out` says whether the texts are held-out traces. `plain` as
    in `Questions`.
    """
    import numpy as np

    vocabulary = against.logprobs_PV.shape[1]
    asked = Questions(prefixes=against.prefixes, plain=plain, vocabulary=vocabulary, reuse=True)
    try:
        said = ask(file, asked, log=log, timeout_s=timeout_s)
    except ServerEnded as error:
        return Check("divergence", 3, str(error))
    assert said.logprobs_PV is not None  # prefixes were asked for
    figures = figures_of(against.logprobs_PV, said.logprobs_PV)
    if not np.isfinite(figures["kl"]):
        return Check("divergence", 3, "llama.cpp gave no probability for some tokens")
    limit, where = (KL_LIMIT[kind], "held-out traces") if held_out else (ELSEWHERE * KL_LIMIT[kind], "its own answers")
    missed = f"KL to the model is {figures['kl']:.3g} nats on {where}; the bound for {kind} is {limit:g}"
    return Check("divergence", 3, None if figures["kl"] <= limit else missed, figures)


def figures_of(model_PV: NDArray[np.float32], other_PV: NDArray[np.float32]) -> dict[str, float]:
    """Mean and highest KL(model || other) in nats, the share of positions where both have the same token on top."""
    import numpy as np

    one_PV, two_PV = _normalised(model_PV), _normalised(other_PV)
    kl_P = np.sum(np.exp(one_PV) * (one_PV - two_PV), axis=1)
    top_1 = float(np.mean(one_PV.argmax(1) == two_PV.argmax(1)))
    return {"kl": float(kl_P.mean()), "kl_highest": float(kl_P.max()), "top_1": top_1, "positions": len(kl_P)}


def other_base(source: Source, texts: Sequence[Text], vocabulary: int) -> Check | None:
    """For an adapter that learnt on a base in 4 bits: how far the choice of base that was not taken is from the one
    that was. None for any other model.
    """
    from distill import nf4
    from distill.gguf.adapter import adapter_parts

    _, over = adapter_parts(source.model, source.adapter)
    if over is None or nf4.record_of(over) is None:
        return None
    taken = source.reference_on(texts, vocabulary)
    onto: Onto = "stored" if source.onto == "trained" else "trained"
    other = reference(source.model, source.adapter, texts, vocabulary, onto)
    found = figures_of(taken.logprobs_PV, other.logprobs_PV)
    note = (
        f"the adapter learnt on a base in 4 bits and is laid over the base as {WORDS[source.onto]}; over the base as "
        f"{WORDS[onto]} the model would be {found['kl']:.2g} nats away, with {found['top_1']:.1%} of most probable "
        "tokens the same"
    )
    figures = {"onto": source.onto, "other_kl": found["kl"], "other_top_1": found["top_1"]}
    return Check("base", 3, None, figures, (note,))


def _normalised(logprobs_PV: NDArray[np.float32]) -> NDArray[np.float64]:
    """In float64 and summing to 1: the rounding of two float32 sums is larger than the divergence of an F32 file."""
    import numpy as np

    wide_PV = logprobs_PV.astype(np.float64)
    normalised_PV: NDArray[np.float64] = wide_PV - np.logaddexp.reduce(wide_PV, axis=1, keepdims=True)
    return normalised_PV
