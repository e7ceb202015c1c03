"""Shapes at which this machine gives a row of a batch the same bits, whatever stands in the other rows.

A matrix product may round a row otherwise when it has other neighbours: libraries choose their kernels by shape (MKL
takes another path below 4 rows a thread, say, and splits sums over more than 384 terms). The shapes that a decoder uses
are tried when a model is loaded, and only such are used as agree. That is a measurement, not a proof; the tests hold
the outcome: answers and log-probabilities equal to the last bit, in any company.

Shapes: B rows, H key heads, G query heads a key head, L attended tokens, D entries a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

LONGEST_PROBED = 1536
"""Attention spans are tried up to this length; beyond it the sums are split into equal blocks anyway."""


@dataclass(frozen=True)
class Shapes:
    """What batch sizes, attention spans and prompt passes are rounded to.

    A step has a multiple of `rows` rows, which look at a multiple of `span` cached tokens; prompts are read up to
    `prefill` tokens in one pass.
    """

    rows: int
    span: int
    prefill: int


LOOSE = Shapes(rows=8, span=32, prefill=4096)
"""For a GPU or half precision, where nothing is promised."""


def measure(model: Any, most_rows: int) -> Shapes:
    """Try the model's own products and attention on a CPU in float32, and choose the smallest shapes that agree."""
    shape = model.config.get_text_config()
    heads = shape.num_attention_heads
    key_heads = getattr(shape, "num_key_value_heads", None) or heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    weights = {(w.shape, w.dtype): w for w in _weights(model)}.values()
    with torch.inference_mode():
        rows = next((n for n in (8, 16, 32) if all(_rows_agree(w, n, most_rows) for w in weights)), most_rows)
        span = next((n for n in (16, 64, 256) if _spans_agree(key_heads, heads // key_heads, width, n)), 512)
        inner = [w for w in weights if w.shape[0] < 1 << 15]  # the head sees one token of a prompt, not all
        prefill = 1024 if all(_prefill_agrees(w) for w in inner) else 1
    return Shapes(rows, span, prefill)


def _weights(model: Any) -> list[torch.Tensor]:
    """The matrices of all linear layers. One in 4 bits is unpacked before it is multiplied: any of its shape does."""
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return [m.weight if m.weight.is_floating_point() else _noise(m.out_features, m.in_features) for m in linears]


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _rows_agree(weight: torch.Tensor, multiple: int, most: int) -> bool:
    x = _noise(max(most, multiple), weight.shape[1]).to(weight.dtype)
    whole = linear(x, weight)
    return all(torch.equal(linear(x[:n], weight), whole[:n]) for n in range(multiple, len(x), multiple))


def _prefill_agrees(weight: torch.Tensor) -> bool:
    x = _noise(1024, weight.shape[1]).to(weight.dtype)
    whole = linear(x, weight)
    return all(torch.equal(linear(x[:n], weight), whole[:n]) for n in (32, 96, 512))


def _spans_agree(key_heads: int, group: int, width: int, multiple: int) -> bool:
    """One token's attention over n cached ones, padded to spans that are a multiple: the same bits for all of them?"""
    keys, values = _noise(1, key_heads, LONGEST_PROBED, width), _noise(1, key_heads, LONGEST_PROBED, width) + 1
    query = _noise(1, key_heads, group, width)

    def attend(n: int, span: int) -> torch.Tensor:
        mask_L = torch.zeros(span).masked_fill(torch.arange(span) >= n, torch.finfo(torch.float32).min)
        return scaled_dot_product_attention(query, keys[:, :, :span], values[:, :, :span], mask_L[None, None, None])

    for n, extra in product((1, 15, 40, 200, 500), (1, 2, 5, 11)):
        least = -(-n // multiple) * multiple
        if least + extra * multiple <= LONGEST_PROBED and not torch.equal(
            attend(n, least), attend(n, least + extra * multiple)
        ):
            return False
    return True
