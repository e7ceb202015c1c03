"""What is kept of a teacher's distributions: exact tail terms at any temperature, and draws without bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.core.protocols import Keep, SampledLogprobs, TokenLogprobs
from distill.decoding import record
from distill.decoding.draw import draw_many, logprobs, rank
from distill.decoding.record import recorder, runs

TEMPERATURES = (0.7, 2.0, 4.0)


def logits(rows: int, vocab: int, spread: float, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def softened(logits_NV: torch.Tensor, temperature: float) -> np.ndarray:
    """Log p^(1/T) of every entry, not normalised, in numpy's own float64."""
    values = logits_NV.numpy().astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    return (values - np.log(np.exp(values).sum(axis=1, keepdims=True))) / temperature


def recorded(logits_NV: torch.Tensor, tokens_N: torch.Tensor, keep: Keep, key: str = "k") -> object:
    keeper = recorder(keep, key)
    keeper.add(logits_NV, tokens_N)
    return keeper.rows()


@pytest.mark.parametrize("spread", [0.1, 2.0, 12.0, 60.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_tail_terms_are_those_of_the_whole_distribution(spread: float, temperature: float) -> None:
    """Down to masses that one minus the sum inside would lose altogether."""
    logits_NV = logits(20, 500, spread)
    got = logprobs(rank(logits_NV, 16), torch.zeros(20, dtype=torch.int64), 16, TEMPERATURES)
    outside = softened(logits_NV, temperature)
    np.put_along_axis(outside, got.ids_BK.numpy(), -np.inf, axis=1)
    expected = np.logaddexp.reduce(outside, axis=1)
    np.testing.assert_allclose(got.tails_TB[TEMPERATURES.index(temperature)].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_a_tail_that_is_scaled_as_one_bucket_is_far_off() -> None:
    """Trap 17: with T = 2 the mass outside the top 16 is no function of the mass outside at T = 1."""
    logits_NV = logits(20, 5000, 3.0)
    got = logprobs(rank(logits_NV, 16), torch.zeros(20, dtype=torch.int64), 16, (2.0,))

    def mass(tail_N: torch.Tensor) -> np.ndarray:
        inside = np.logaddexp.reduce(got.logprobs_BK.numpy() / 2.0, axis=1)
        return np.exp(tail_N.numpy() - np.logaddexp(inside, tail_N.numpy()))

    exact, as_one = mass(got.tails_TB[0]), mass(got.tail_B / 2.0)
    assert exact.mean() > 3 * as_one.mean()


def test_logits_in_float64_are_left_as_they_were() -> None:
    logits_NV = logits(3, 40, 2.0).double()
    before = logits_NV.clone()
    logprobs(rank(logits_NV, 4), torch.zeros(3, dtype=torch.int64), 4, (2.0,))
    draw_many(logits_NV, torch.zeros(3, dtype=torch.int64), torch.rand(3, 8, dtype=torch.float64), (2.0,))
    assert torch.equal(logits_NV, before)


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4).map(sorted), min_size=1, max_size=8))
def test_runs_hold_every_draw(rows: list[list[int]]) -> None:
    ids_NS = np.asarray(rows, np.int64)
    offset, ids_E, counts_E, first_E = runs(ids_NS)
    for j, row in enumerate(rows):
        span = slice(offset[j], offset[j + 1])
        assert list(ids_E[span]) == sorted(set(row))
        assert list(counts_E[span]) == [row.count(i) for i in sorted(set(row))]
    assert (ids_NS.ravel()[first_E] == ids_E).all()


@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0])
def test_each_id_is_drawn_as_often_as_it_is_probable(spread: float) -> None:
    """The mean over many keys; no count strays from its mean by two draws or more, which independent draws would."""
    logits_1V, draws = logits(1, 40, spread), 25
    p_V = np.exp(softened(logits_1V, 1.0))[0]
    total_V, n = np.zeros(40), 2000
    for key in range(n):
        got = recorded(logits_1V, torch.zeros(1, dtype=torch.int64), Keep(draws=draws), f"key {key}")
        assert isinstance(got, SampledLogprobs)
        assert (np.abs(got.counts_E - draws * p_V[got.ids_E]) < 2).all()
        total_V[got.ids_E] += got.counts_E
    sigma_V = np.sqrt(p_V * (1 - p_V) * draws / n)  # of independent draws: an upper bound here
    assert (np.abs(total_V / n - draws * p_V) < 5 * sigma_V + 1e-9).all()


def test_entropies_normalisers_and_log_probabilities_are_those_of_the_whole_distribution() -> None:
    logits_NV, tokens_N = logits(30, 300, 3.0), torch.arange(30) * 7
    got = recorded(logits_NV, tokens_N, Keep(draws=20, temperatures=TEMPERATURES))
    assert isinstance(got, SampledLogprobs)
    log_p = softened(logits_NV, 1.0)
    np.testing.assert_allclose(got.realised_N, log_p[np.arange(30), tokens_N], rtol=1e-5)
    np.testing.assert_allclose(got.entropy_N, -(np.exp(log_p) * log_p).sum(axis=1), rtol=1e-5)
    rows_E = np.repeat(np.arange(30), np.diff(got.offset))
    assert got.logprobs_E is not None
    np.testing.assert_allclose(got.logprobs_E, log_p[rows_E, got.ids_E], rtol=1e-5)
    for t in TEMPERATURES:
        soft = log_p / t
        c = np.logaddexp.reduce(soft, axis=1)
        np.testing.assert_allclose(got.normalisers[t], c, rtol=1e-5, atol=1e-6)
        soft -= c[:, None]
        np.testing.assert_allclose(got.entropies[t], -(np.exp(soft) * soft).sum(axis=1), rtol=1e-5)


def test_entries_without_probability_are_never_drawn_and_leave_the_entropy_alone() -> None:
    logits_NV = logits(4, 30, 1.0)
    logits_NV[:, 10:] = -float("inf")
    got = recorded(logits_NV, torch.zeros(4, dtype=torch.int64), Keep(draws=200, temperatures=(2.0,)))
    assert isinstance(got, SampledLogprobs)
    assert got.ids_E.max() < 10
    assert np.isfinite(got.entropy_N).all() and np.isfinite(got.entropies[2.0]).all()


def test_noise_at_the_very_end_draws_the_last_id_with_probability() -> None:
    logits_NV = torch.zeros(1, 6)
    logits_NV[0, 4:] = -float("inf")
    almost_one = torch.full((1, 3), np.nextafter(1.0, 0.0), dtype=torch.float64)
    got = draw_many(logits_NV, torch.zeros(1, dtype=torch.int64), almost_one)
    assert got.ids_BS[0, -1] == 3


@pytest.mark.parametrize("keep", [Keep(top_k=5, temperatures=(2.0,)), Keep(draws=9, temperatures=(2.0,))])
def test_pieces_do_not_matter_and_keys_do(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NV, tokens_N = logits(50, 60, 2.0), torch.arange(50)
    whole = recorded(logits_NV, tokens_N, keep)
    monkeypatch.setattr(record, "ROW_LOGITS", 7 * 60)
    pieces = recorder(keep, "k")
    for at in range(0, 50, 12):
        pieces.add(logits_NV[at : at + 12], tokens_N[at : at + 12])
    got = pieces.rows()
    for name, values in vars(whole).items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(getattr(got, name), values)
    other = recorded(logits_NV, tokens_N, keep, "another key")
    if isinstance(whole, SampledLogprobs) and isinstance(other, SampledLogprobs):
        assert not np.array_equal(whole.ids_E, other.ids_E)
    else:
        assert isinstance(whole, TokenLogprobs)
