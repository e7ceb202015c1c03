"""Drawing one token: the cut distribution, the noise's point on it, and what is recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.decoding.draw import HEAD, Settings, draw, logprobs, noise_of, rank


def how(temperature: float, top_p: float = 1.0, top_k: int = 0, rows: int = 1) -> Settings:
    one = torch.ones(rows, dtype=torch.float64)
    return Settings(one * temperature, one * top_p, torch.full((rows,), top_k))


def cut(logits_V: np.ndarray, temperature: float, top_p: float, top_k: int) -> dict[int, float]:
    """The distribution by hand: temperature, then top_k, then top_p, entries by probability and then id."""
    order = sorted(range(len(logits_V)), key=lambda i: (-logits_V[i], i))
    weight = np.exp((logits_V[order].astype(np.float64) - logits_V.max()) / temperature)
    if top_k:
        order, weight = order[:top_k], weight[:top_k]
    reached = np.cumsum(weight / weight.sum())
    n = 1 + int(np.searchsorted(reached, top_p)) if top_p < 1 else len(order)
    return dict(zip(order[:n], weight[:n] / weight[:n].sum(), strict=False))


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.95, 0), (0.3, 0), (1.0, 5), (0.9, 5), (1.0, 50), (0.9, 50)])
def test_noise_is_the_point_of_the_cut_distribution(spread, temperature, top_p, top_k):
    """A flat distribution reaches beyond the ranked head, a peaked one does not: both must say the same."""
    logits_1V = spread * torch.randn(1, 100, generator=torch.Generator().manual_seed(0))
    expected = cut(logits_1V[0].numpy(), temperature, top_p, top_k)

    upper = 0.0
    for token, probability in expected.items():
        for share in (0.001, 0.999) if probability > 1e-10 else ():  # less is lost in the rounding of the sum before it
            noise = upper + share * probability
            drawn_B = draw(rank(logits_1V), how(temperature, top_p, top_k), torch.tensor([noise], dtype=torch.float64))
            assert int(drawn_B[0]) == token
        upper += probability
    assert upper == pytest.approx(1.0)


def test_every_row_has_its_own_settings_and_is_alone():
    logits_BV = 2 * torch.randn(6, 90, generator=torch.Generator().manual_seed(1))
    rows = [(0.0, 1.0, 0), (0.6, 0.9, 0), (1.0, 1.0, 0), (2.0, 1.0, 40), (1.0, 0.5, 3), (3.0, 0.999, 0)]
    mixed = Settings(
        torch.tensor([r[0] for r in rows], dtype=torch.float64),
        torch.tensor([r[1] for r in rows], dtype=torch.float64),
        torch.tensor([r[2] for r in rows]),
    )
    noise_B = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    together = draw(rank(logits_BV), mixed, noise_B)

    alone = [int(draw(rank(logits_BV[b : b + 1]), how(*rows[b]), noise_B[b : b + 1])[0]) for b in range(6)]
    assert together.tolist() == alone
    assert alone[0] == int(logits_BV[0].argmax())


@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=80), st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_draw_is_always_an_entry_that_was_kept(logits, noise):
    logits_1V = torch.tensor([logits])
    for temperature, top_p, top_k in ((0.6, 0.95, 0), (1.0, 1.0, 7), (2.5, 1.0, 0)):
        drawn_B = draw(rank(logits_1V), how(temperature, top_p, top_k), torch.tensor([noise], dtype=torch.float64))
        assert int(drawn_B[0]) in cut(logits_1V[0].numpy(), temperature, min(1.0, top_p + 1e-9), top_k)


def test_frequencies_are_the_distribution_s():
    logits_1V = torch.tensor([[2.0, 1.0, 0.0, -1.0, -6.0]])
    n = 40_000
    noise_B = torch.from_numpy(noise_of("frequencies").random(n))

    drawn_B = draw(rank(logits_1V.expand(n, 5).contiguous()), how(0.7, 0.99, rows=n), noise_B)

    expected = cut(logits_1V[0].numpy(), 0.7, 0.99, 0)
    counts = torch.bincount(drawn_B, minlength=5)
    for token in range(5):
        p = expected.get(token, 0.0)
        assert abs(counts[token].item() / n - p) <= 4 * math.sqrt(p * (1 - p) / n)


def test_equal_logits_are_ranked_by_id():
    logits_1V = torch.zeros(1, 50)
    logits_1V[0, [7, 30]] = 1.0

    ranked = rank(logits_1V)

    assert ranked.ids_BK[0, :2].tolist() == [7, 30]
    assert ranked.ids_BK[0, 2:].tolist() == sorted(ranked.ids_BK[0, 2:].tolist())


def test_noise_is_the_key_s_and_the_place_s():
    whole = noise_of("a key").random(10)

    resumed = noise_of("a key")
    resumed.random(4)
    assert resumed.random(6).tolist() == whole[4:].tolist()
    assert noise_of("another key").random() != whole[0]
    assert whole[0] == pytest.approx(0.18014848750391088)  # golden: a changed generator would redraw every answer


@pytest.mark.parametrize("n", [1, 5, HEAD, HEAD + 8, 60])
def test_recorded_mass_is_whole(n):
    logits_BV = 5 * torch.randn(4, 60, generator=torch.Generator().manual_seed(3))
    drawn_B = torch.tensor([0, 7, 59, 30])
    true_BV = logits_BV.double().log_softmax(-1)

    got = logprobs(rank(logits_BV, max(n, HEAD)), drawn_B, n)

    assert got.ids_BK.shape == (4, n)
    torch.testing.assert_close(got.logprobs_BK, true_BV.gather(1, got.ids_BK).float())
    torch.testing.assert_close(got.realised_B, true_BV.gather(1, drawn_B[:, None])[:, 0].float())
    mass_B = torch.logaddexp(got.logprobs_BK.double().logsumexp(1), got.tail_B.double())
    torch.testing.assert_close(mass_B, torch.zeros(4, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_tiny_tail_is_exact():
    """One minus the sum inside would be 0 here (or noise): the mass outside is summed itself."""
    logits_1V = torch.tensor([[60.0, 59.0, *([-20.0] * 10)]])

    got = logprobs(rank(logits_1V), torch.tensor([0]), 2)

    assert got.tail_B.item() == pytest.approx(math.log(10) - 80 - math.log1p(math.exp(-1)), abs=1e-5)
