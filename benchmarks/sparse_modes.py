"""How far the gradient of each sparse way of matching is from the full one: bias, which stays, noise, which averages.

    python -m benchmarks.sparse_modes                   # the table of docs/losses.md, a minute
    python -m benchmarks.sparse_modes --vocab 5000      # smaller

Teachers over 151,936 entries: probability falls as a power of the rank (the exponent sets the entropy), with Gaussian
noise of 0.5 nats on every logit. Students: the teacher's logits with noise of 0.3 nats (near) or 2 nats (far). What is
compared is d(forward KL)/d(logits) at T = 1, q - p in full. The gradients of top-k with a tail and of draws come from
the code that trains; the two renormalised kinds, which other tools use, are written out here: `both` renormalises
teacher and student over the k ids, `teacher` the teacher alone.

Printed per token, means over the rows: for what is the same every time its bias |g - full| / |full|; for draws their
noise sqrt(E |g - full|^2) / |full| and, in brackets, how far the mean of `--draws` repetitions is from full, against
how far noise alone leaves it: about 1 where there is no bias. A batch of n tokens divides noise by sqrt(n), not bias.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from students.losses.forward_kl import forward_kl
from students.teacher_rows import Matching, SampledRows, TeacherRows
from students.tile_loss import tile_loss_

EXPONENTS = (6.0, 3.0, 2.0, 1.5, 1.0)
"""Of the rank, from a teacher who is nearly sure to one who is not."""

NOISE = {"near": 0.3, "far": 2.0}
"""Nats by which the student's logits differ."""


def teacher_of(rows: int, vocab: int, exponent: float, generator: torch.Generator) -> Tensor:
    """Log-probabilities [R, V] that fall as a power of the rank, in an order of their own in each row."""
    rank_V = torch.arange(1, vocab + 1, dtype=torch.float64)
    order_RV = torch.rand(rows, vocab, generator=generator).argsort(1)
    noise_RV = 0.5 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    return (-exponent * rank_V.log()[order_RV] + noise_RV).log_softmax(1)


def gradient(student_RV: Tensor, rows: TeacherRows | SampledRows) -> Tensor:
    """d(forward KL)/d(logits) as training takes it."""
    tile_RV = student_RV.clone()
    labels_R1 = torch.zeros(len(tile_RV), 1, dtype=torch.long)
    tile_loss_(tile_RV, labels_R1, rows, Matching(forward_kl, 1.0, 1.0, tile_RV.shape[1]))
    return tile_RV


def top_k(log_p_RV: Tensor, k: int) -> TeacherRows:
    """The k most probable ids and the exact tail."""
    values_RK, ids_RK = log_p_RV.topk(k, dim=1)
    tail_R = log_p_RV.scatter(1, ids_RK, -torch.inf).logsumexp(1)
    return TeacherRows(ids_RK, values_RK, tail_R, torch.ones(len(log_p_RV), dtype=torch.bool))


def drawn(log_p_RV: Tensor, draws: int, generator: torch.Generator) -> SampledRows:
    """Ids drawn from the teacher, each with the weight 1 / draws."""
    ids_RK = torch.multinomial(log_p_RV.exp(), draws, replacement=True, generator=generator)
    weights_RK = torch.full(ids_RK.shape, 1 / draws, dtype=log_p_RV.dtype)
    present_R = torch.ones(len(ids_RK), dtype=torch.bool)
    return SampledRows(ids_RK, weights_RK, torch.zeros(len(ids_RK), dtype=log_p_RV.dtype), present_R)


def renormalised(log_p_RV: Tensor, student_RV: Tensor, k: int, *, both: bool) -> Tensor:
    """The gradient where the teacher's top k are made to sum to one, and the student's too with `both`."""
    values_RK, ids_RK = log_p_RV.topk(k, dim=1)
    if both:
        grad_RK = student_RV.gather(1, ids_RK).softmax(1) - values_RK.softmax(1)
        return torch.zeros_like(student_RV).scatter(1, ids_RK, grad_RK)
    return student_RV.softmax(1).scatter_add(1, ids_RK, -values_RK.softmax(1))


def bias(full_RV: Tensor, grad_RV: Tensor) -> float:
    """Distance of a gradient from the full one, in units of that; mean over the rows."""
    return float(((grad_RV - full_RV).norm(dim=1) / full_RV.norm(dim=1)).mean())


def noise(full_RV: Tensor, again: Callable[[], Tensor], times: int) -> tuple[float, float]:
    """Noise of gradients that `again` draws, and the distance of their mean against what noise alone would leave."""
    sum_RV, squares_R = torch.zeros_like(full_RV), torch.zeros(len(full_RV), dtype=full_RV.dtype)
    for _ in range(times):
        difference_RV = again() - full_RV
        sum_RV += difference_RV
        squares_R += difference_RV.square().sum(1)
    of_mean_R = (sum_RV / times).square().sum(1)
    variance_R = (squares_R / times - of_mean_R) * times / (times - 1)
    spread_R = variance_R.sqrt() / full_RV.norm(dim=1)
    return float(spread_R.mean()), float((of_mean_R.sum() / (variance_R.sum() / times)).sqrt())


def main() -> None:
    """Print one block of lines for every teacher and student, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--draws", type=int, default=30, help="repetitions of each sampled mode")
    parser.add_argument("--exponents", type=float, nargs="+", default=EXPONENTS)
    arguments = parser.parse_args()
    sparse, sizes = (4, 16, 64), (12, 50)
    names = [f"tail {k}" for k in sparse] + [f"both {k}" for k in sparse] + [f"teacher {k}" for k in sparse]
    print("| entropy | top 16 | student | KL | " + " | ".join([*names, *(f"draws {s}" for s in sizes)]) + " |")
    print("| --- " * (4 + len(names) + len(sizes)) + "|")
    for exponent in arguments.exponents:
        generator = torch.Generator().manual_seed(0)
        log_p_RV = teacher_of(arguments.rows, arguments.vocab, exponent, generator)
        entropy = float(-(log_p_RV.exp() * log_p_RV).sum(1).mean())
        covered = float(log_p_RV.topk(16, dim=1).values.exp().sum(1).mean())
        for who, apart in NOISE.items():
            more_RV = torch.randn(log_p_RV.shape, generator=generator, dtype=torch.float64)
            student_RV = log_p_RV + apart * more_RV
            log_q_RV = student_RV.log_softmax(1)
            full_RV, kl = log_q_RV.exp() - log_p_RV.exp(), forward_kl(log_p_RV, log_q_RV)[0].mean()
            grads = [gradient(student_RV, top_k(log_p_RV, k)) for k in sparse]
            grads += [renormalised(log_p_RV, student_RV, k, both=both) for both in (True, False) for k in sparse]
            shown = [f"{bias(full_RV, grad_RV):.3f}" for grad_RV in grads]
            for size in sizes:

                def again(size: int = size, student_RV: Tensor = student_RV) -> Tensor:
                    return gradient(student_RV, drawn(log_p_RV, size, generator))  # noqa: B023  # called at once

                shown.append("{:.2f} ({:.2f})".format(*noise(full_RV, again, arguments.draws)))
            print(f"| {entropy:.2f} | {covered:.3f} | {who} | {float(kl):.4f} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
