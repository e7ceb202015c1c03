"""Packed rows never see each other: which attention may be packed, and the proof on the model itself.

A packed sequence carries `position_ids` that start again at 0 with every row, and no attention mask. transformers makes
the mask from them (`find_packed_sequence_indices` in its masking_utils), flash attention its sequence bounds. Whether a
model does so is its own affair: an all-ones mask, a layer that remembers (Mamba, linear attention, convolutions) or
code that ignores `position_ids` leaks from row to row without a word. So it is shown before the first step.

Shapes: T tokens of a sequence, H hidden size.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from distill.core.errors import DistillError

SQUARE = {"sdpa": 16_384, "eager": 4_096}
"""Longest packed sequence by attention that makes T x T entries: sdpa a mask, eager every head's weights."""

BY_BOUNDS = ("flash_attention_2", "flash_attention_3", "flex_attention")
"""Attention that keeps packed rows apart without a T x T mask. Not run by the tests here, which have no GPU."""

PROOF_LENGTHS = (7, 5)
"""Tokens of the two rows that the proof packs."""


def use(model: Any, attention: str | None) -> None:
    """Let a model compute attention in a named way; None leaves it as transformers chose.

    Raises DistillError where that way is not installed or the model does not know it.
    """
    if attention is None:
        return
    try:
        model.set_attn_implementation(attention)
    except (ImportError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DistillError(
            f"`train.attention: {attention}` cannot be had for {type(model).__name__}: {reason}"
        ) from error


def check(core: Any, tokens: int) -> None:
    """Refuse what must not be packed: unknown attention, layers other than full attention, a mask that grows too large.

    `tokens` is the longest packed sequence. Raises DistillError.
    """
    config, name = core.config.get_text_config(), type(core).__name__
    layers = set(getattr(config, "layer_types", None) or ())
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    other = layers - {"full_attention"} or ({"sliding_attention"} if windowed and not layers else set())
    if other:
        raise DistillError(
            f"{name} has layers of {', '.join(sorted(other))}, whose rows cannot be packed; set `train.packing: false`"
        )
    if "position_ids" not in inspect.signature(core.base_model.forward).parameters:
        raise DistillError(
            f"{name} takes no position_ids, so packed rows would see each other; set `train.packing: false`"
        )
    attention = config._attn_implementation
    if attention not in (*SQUARE, *BY_BOUNDS):
        raise DistillError(
            f"{name} runs on attention `{attention}`, of which it is not known whether it keeps packed rows apart; "
            "set `train.packing: false`"
        )
    if tokens > SQUARE.get(attention, tokens):
        each = 1 + core.dtype.itemsize if attention == "sdpa" else 2 * 4 * config.num_attention_heads
        raise DistillError(
            f"packed sequences of {tokens:,} tokens on attention `{attention}`: it makes {tokens:,} x {tokens:,} "
            f"entries, {each * tokens**2 / 2**30:,.1f} GiB; set `train.micro_batch_tokens` to at most "
            f"{SQUARE[attention]:,}, `train.attention: flash_attention_2`, or `train.packing: false`"
        )


@torch.no_grad()
def prove(core: Any) -> None:
    """Show on two short rows that the second is the same packed as alone, and unmoved by what the first one says. Call
    it under the training's autocast: flash attention runs in no other precision.

    Raises DistillError otherwise.
    """
    training = core.training
    core.train(False)
    vocab = core.config.get_text_config().vocab_size
    first, second = PROOF_LENGTHS
    ids_BT = torch.arange(1, 2 * first + second + 1, device=core.device) * 7 % vocab
    mine_T, others = ids_BT[2 * first :], (ids_BT[:first], ids_BT[first : 2 * first])
    alone_TH = _hidden(core, [mine_T])
    packed = [_hidden(core, [other_T, mine_T])[first:] for other_T in others]
    core.train(training)
    exact = core.dtype == torch.float32 and not torch.is_autocast_enabled(core.device.type)
    tolerance = 1e-4 if exact else 3e-2
    moved, apart = _distance(packed[0], packed[1]), _distance(packed[0], alone_TH)
    if not max(moved, apart) <= tolerance:  # also where one of them is NaN
        raise DistillError(
            f"{type(core).__name__} lets packed rows see each other (a row's hidden states move by {apart:.1e} when it "
            f"is packed, {moved:.1e} when its neighbour changes); set `train.packing: false`"
        )


def positions(lengths: list[int], device: Any = None) -> Tensor:
    """`position_ids` of rows laid end to end: int64 [1, T], from 0 for every row."""
    return torch.cat([torch.arange(length, device=device) for length in lengths])[None]


def _hidden(core: Any, rows: list[Tensor]) -> Tensor:
    position_ids = positions([len(row) for row in rows], core.device)
    hidden: Tensor = core.base_model(
        input_ids=torch.cat(rows)[None], position_ids=position_ids, use_cache=False
    ).last_hidden_state
    return hidden[0].float()


def _distance(a_TH: Tensor, b_TH: Tensor) -> float:
    """Largest difference, against the largest entry."""
    return float((a_TH - b_TH).abs().max() / b_TH.abs().max())
