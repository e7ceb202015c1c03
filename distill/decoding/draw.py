"""From logits to a drawn token: noise that belongs to the request, the nucleus, and what is recorded of a step.

Every row is treated by itself: what is drawn for one depends on its logits, its settings and its own noise, never on
the rows beside it. All sums are done in float64.

Shapes: B rows, V vocabulary entries, K entries kept of a row, S draws of a row, T temperatures other than 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

HEAD = 32
"""How many of the most probable entries are ranked at first; rows whose draw lies beyond them are sorted whole."""


def noise_of(key: str) -> np.random.Generator:
    """The uniform numbers of one request: number j is for completion token j, whatever engine run draws it."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=seed))


@dataclass(frozen=True)
class Settings:
    """Sampling settings of B rows. `temperature_B` 0 is greedy, `top_k_B` 0 is all. float64; `top_k_B` int64."""

    temperature_B: Tensor
    top_p_B: Tensor
    top_k_B: Tensor


@dataclass(frozen=True)
class Ranked:
    """Logits with their largest entries in order: most probable first, the lower id first among equals."""

    logits_BV: Tensor
    values_BK: Tensor
    ids_BK: Tensor


def rank(logits_BV: Tensor, n: int = HEAD) -> Ranked:
    """Rank the `n` largest logits of each row (all of them where V is smaller)."""
    n = min(n, logits_BV.shape[1])
    values_BK, ids_BK = logits_BV.topk(n, dim=1)
    if bool((values_BK[:, 1:] == values_BK[:, :-1]).any()):
        ids_BK, order_BK = ids_BK.sort(dim=1)
        values_BK, again_BK = values_BK.gather(1, order_BK).sort(dim=1, descending=True, stable=True)
        ids_BK = ids_BK.gather(1, again_BK)
    return Ranked(logits_BV, values_BK, ids_BK)


def draw(ranked: Ranked, settings: Settings, noise_B: Tensor) -> Tensor:
    """Draw one id a row: int64 [B].

    The distribution is the softmax at the row's temperature, cut to its top_k entries, then to the smallest set of them
    that holds top_p of what is left (transformers' order), both counted from the most probable down. `noise_B`
    (float64 in [0, 1)) is the point of the cumulative distribution that is taken, in that same order. Greedy rows take
    the largest logit and use no noise.
    """
    greedy_B = settings.temperature_B == 0
    if bool(greedy_B.all()):
        return ranked.logits_BV.argmax(dim=1)
    drawn_B, settled_B = _invert(ranked, settings, noise_B)
    drawn_B = drawn_B.where(~greedy_B, ranked.logits_BV.argmax(dim=1))
    left = (~(settled_B | greedy_B)).nonzero()[:, 0]
    if len(left):
        part = Settings(settings.temperature_B[left], settings.top_p_B[left], settings.top_k_B[left])
        values, ids = ranked.logits_BV[left].sort(dim=1, descending=True, stable=True)
        drawn_B[left], _ = _invert(Ranked(ranked.logits_BV[left], values, ids), part, noise_B[left])
    return drawn_B


def _invert(ranked: Ranked, settings: Settings, noise_B: Tensor) -> tuple[Tensor, Tensor]:
    """The ids at the noise's point of the cut distributions, and where the ranked entries were enough to tell."""
    n = ranked.ids_BK.shape[1]
    whole = n == ranked.logits_BV.shape[1]
    temperature_B1 = settings.temperature_B.masked_fill(settings.temperature_B == 0, 1.0)[:, None]
    top_B1 = ranked.values_BK[:, :1].double()
    weight_BK = ((ranked.values_BK.double() - top_B1) / temperature_B1).exp()
    reached_BK = weight_BK.cumsum(dim=1)
    all_B = ((ranked.logits_BV.double() - top_B1) / temperature_B1).exp().sum(dim=1)

    cut_by_k_B = settings.top_k_B > 0
    last_B1 = (settings.top_k_B.clamp(1, n) - 1)[:, None]
    base_B = torch.where(cut_by_k_B, reached_BK.gather(1, last_B1)[:, 0], all_B)
    known_B = ~cut_by_k_B | (settings.top_k_B <= n)

    wanted_B = settings.top_p_B * base_B
    crossing_B1 = (reached_BK < wanted_B[:, None]).sum(dim=1, keepdim=True)
    cut_by_p_B = settings.top_p_B < 1
    held_B = reached_BK.gather(1, crossing_B1.clamp(max=n - 1))[:, 0]
    kept_B = torch.where(cut_by_p_B, torch.minimum(held_B, base_B), base_B)
    known_B &= ~cut_by_p_B | (crossing_B1[:, 0] < n)

    place_B1 = (reached_BK <= (noise_B * kept_B)[:, None]).sum(dim=1, keepdim=True)
    known_B &= place_B1[:, 0] < n
    return ranked.ids_BK.gather(1, place_B1.clamp(max=n - 1))[:, 0], known_B | whole


@dataclass(frozen=True)
class StepLogprobs:
    """Log-probabilities of one step at temperature 1: the K largest, the mass outside them, the drawn token's.

    `tails_TB` has the tail term of each other temperature that was asked for: log of the sum of p^(1/T) outside.
    """

    ids_BK: Tensor
    logprobs_BK: Tensor
    tail_B: Tensor
    realised_B: Tensor
    tails_TB: Tensor


def logprobs(ranked: Ranked, drawn_B: Tensor, n: int, temperatures: Sequence[float] = ()) -> StepLogprobs:
    """What to record of a step, from the raw logits. `ranked` holds at least `n` entries a row, or all of them.

    A tail is the log of the sum over the entries outside, not of one minus the sum inside, so a mass of 1e-30 is exact
    too; it is -inf where nothing is outside. float64 inside, float32 out.
    """
    logits_BV = ranked.logits_BV.to(torch.float64, copy=True)  # overwritten below
    normaliser_B = logits_BV.logsumexp(dim=1)
    ids_BK = ranked.ids_BK[:, :n]
    inside_BK = ranked.values_BK[:, :n].double() - normaliser_B[:, None]
    realised_B = logits_BV.gather(1, drawn_B[:, None])[:, 0] - normaliser_B
    outside_BV = logits_BV.scatter_(1, ids_BK, -float("inf"))
    tail_B = outside_BV.logsumexp(dim=1) - normaliser_B
    softer = [(outside_BV / t).logsumexp(dim=1) - normaliser_B / t for t in temperatures]
    tails_TB = torch.stack(softer) if softer else tail_B.new_zeros((0, len(tail_B)))
    return StepLogprobs(ids_BK, inside_BK.float(), tail_B.float(), realised_B.float(), tails_TB.float())


@dataclass(frozen=True)
class StepDraws:
    """S ids drawn from each of B distributions at temperature 1, and what their use at other temperatures needs.

    `ids_BS` int64, ascending in a row, repeated as often as drawn, and their log-probabilities. `entropy_B` nats of the
    whole distribution, `realised_B` as in `StepLogprobs`. For each other temperature T: log of the sum of p^(1/T), and
    the entropy of the distribution at T.
    """

    ids_BS: Tensor
    logprobs_BS: Tensor
    entropy_B: Tensor
    realised_B: Tensor
    normalisers_TB: Tensor
    entropies_TB: Tensor


def draw_many(logits_BV: Tensor, drawn_B: Tensor, noise_BS: Tensor, temperatures: Sequence[float] = ()) -> StepDraws:
    """Draw S ids a row from the softmax of its logits, one from each S-th of the cumulative distribution.

    `noise_BS` (float64 in [0, 1)) is where in its S-th each draw falls. An id of probability p is drawn S p times in
    the mean, as if the draws were independent, and with less variance than those have (stratified sampling).
    """
    logp_BV = logits_BV.double()
    logp_BV = logp_BV - logp_BV.logsumexp(dim=1, keepdim=True)
    realised_B = logp_BV.gather(1, drawn_B[:, None])[:, 0]
    probability_BV = logp_BV.exp()
    entropy_B = _entropy(probability_BV, logp_BV)
    reached_BV = probability_BV.cumsum(dim=1)
    strata_S = torch.arange(noise_BS.shape[1], dtype=torch.float64, device=noise_BS.device)
    whole_B1 = reached_BV[:, -1:]
    point_BS = (strata_S + noise_BS) / noise_BS.shape[1] * whole_B1
    point_BS = point_BS.minimum(whole_B1.nextafter(torch.zeros_like(whole_B1)))  # rounding must not reach the end
    ids_BS = torch.searchsorted(reached_BV, point_BS, right=True)
    drawn_BS = logp_BV.gather(1, ids_BS)
    normalisers, entropies = [], []
    for t in temperatures:
        softer_BV = logp_BV / t
        normaliser_B = softer_BV.logsumexp(dim=1)
        softer_BV -= normaliser_B[:, None]
        normalisers.append(normaliser_B)
        entropies.append(_entropy(softer_BV.exp(), softer_BV))
    none_TB = entropy_B.new_zeros((0, len(entropy_B)))
    return StepDraws(
        ids_BS, drawn_BS.float(), entropy_B.float(), realised_B.float(),
        (torch.stack(normalisers) if normalisers else none_TB).float(),
        (torch.stack(entropies) if entropies else none_TB).float(),
    )  # fmt: skip


def _entropy(probability_BV: Tensor, logp_BV: Tensor) -> Tensor:
    """-sum p log p; an entry without any probability adds nothing, also where its logarithm is -inf."""
    return -(probability_BV * logp_BV.clamp(min=torch.finfo(logp_BV.dtype).min)).sum(dim=1)
