"""The chunked head loss against plain autograd over full logits, in every mode, on every kind of head.

Shapes as in students/head_loss.py.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from students.head_loss import LiveRows, Matching, SampledRows, Signal, TeacherRows, head_loss
from tests.students import naive
from tests.students.naive import DIVERGENCES, HEADS, MODES, build, head_of, live_of, sampled_of, signal_of, teacher_of

R, H, V, SHARED, K = 37, 12, 61, 55, 5


class Case:
    """Random hidden states, labels inside and outside the teacher's ids, and full teacher logits."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.hidden_RH = torch.randn(R, H, dtype=torch.float64).to(dtype)
        self.teacher_RV = torch.randn(R, SHARED, dtype=torch.float64) * 2
        likely_R = self.teacher_RV.argmax(1)
        self.labels_R = torch.where(torch.rand(R) < 0.5, likely_R, torch.randint(0, SHARED, (R,)))


@pytest.fixture
def case() -> Case:
    return Case()


def trained(head: nn.Module) -> list[Tensor]:
    return [parameter for parameter in head.parameters() if parameter.requires_grad]


def distance(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize(("temperature", "weight"), [(0.7, 0.3), (1.0, 0.3), (1.0, 1.0), (2.0, 0.6)])
@pytest.mark.parametrize("kind", HEADS)
def test_value_and_gradients_equal_plain_autograd(
    case: Case, mode: str, name: str, temperature: float, weight: float, kind: str
) -> None:
    """In float64, with absent rows, several chunks, padding rows in the head, and an upstream gradient."""
    head, finish = head_of(kind, H, V)
    signal = naive.absent(signal_of(mode, case.teacher_RV, temperature), torch.arange(R) % 4 != 1)
    matching = Matching(build(name), weight, temperature, SHARED)
    inputs = [case.hidden_RH.requires_grad_(), *trained(head)]

    logits_RV = head(inputs[0]) if finish is None else finish(head(inputs[0]))
    expected = naive.loss(
        logits_RV, case.labels_R, signal, case.teacher_RV, name=name, weight=weight, temperature=temperature
    )
    expected_grads = torch.autograd.grad(1.7 * expected, inputs)
    got = head_loss(
        inputs[0], case.labels_R, head, teacher=signal, matching=matching, finish=finish, tile_bytes=11 * V * 8 * 4
    )
    got_grads = torch.autograd.grad(1.7 * got.loss, inputs)

    assert got.loss.item() == pytest.approx(expected.item(), rel=1e-14)
    for mine, theirs in zip(got_grads, expected_grads, strict=True):
        assert distance(mine, theirs) < 3e-14


@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", HEADS)
def test_single_precision_loses_no_more_than_its_rounding(
    case: Case, mode: str, name: str, temperature: float, kind: str
) -> None:
    torch.manual_seed(3)
    head, finish = head_of(kind, H, V)
    single, _ = head_of(kind, H, V, torch.float32)
    single.load_state_dict(head.state_dict())
    matching, got = Matching(build(name), 0.5, temperature, SHARED), []
    for one, dtype in ((head, torch.float64), (single, torch.float32)):
        signal = signal_of(mode, case.teacher_RV.to(dtype), temperature)
        hidden_RH = case.hidden_RH.detach().to(dtype).requires_grad_()
        loss = head_loss(hidden_RH, case.labels_R, one, teacher=signal, matching=matching, finish=finish).loss
        got.append((loss, torch.autograd.grad(loss, [hidden_RH, *trained(one)])))
    (exact, exact_grads), (value, grads) = got
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=5e-7)
    for mine, theirs in zip(grads, exact_grads, strict=True):
        assert distance(mine, theirs) < 4e-6


@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("weight", [0.6, 1.0])
@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_printed_loss_is_the_loss_that_is_optimised(
    case: Case, mode: str, name: str, temperature: float, weight: float, kind: str
) -> None:
    """Finite differences of the value equal the returned gradient: T squared is in both, or in neither."""
    head, _ = head_of(kind, H, V)
    signal, matching = signal_of(mode, case.teacher_RV, temperature), Matching(build(name), weight, temperature, SHARED)

    def loss(hidden_RH: Tensor) -> Tensor:
        return head_loss(hidden_RH, case.labels_R, head, teacher=signal, matching=matching).loss

    hidden_RH = case.hidden_RH.requires_grad_()
    (grad_RH,) = torch.autograd.grad(loss(hidden_RH), hidden_RH)
    direction_RH = torch.randn(R, H, dtype=torch.float64)
    step = 1e-5
    slope = (loss(hidden_RH + step * direction_RH) - loss(hidden_RH - step * direction_RH)) / (2 * step)

    assert (grad_RH * direction_RH).sum().item() == pytest.approx(slope.item(), rel=1e-7)


@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["plain", "frozen", "adapted"])
def test_every_chunking_gives_the_same(mode: str, name: str, temperature: float, kind: str) -> None:
    """In float32, from one row (or the narrowest tile) at a time to all at once, in rows and in tiles."""
    case = Case(torch.float32)
    torch.manual_seed(2)
    head, _ = head_of(kind, H, V, torch.float32)
    signal = signal_of(mode, case.teacher_RV.float(), temperature)
    matching = Matching(build(name), 0.5, temperature, SHARED)
    inputs, results = [case.hidden_RH.requires_grad_(), *trained(head)], []
    for tile_bytes, sweep in itertools.product((1, 13 * V * 4, 1 << 20), (True, False)):
        got = head_loss(
            inputs[0], case.labels_R, head, teacher=signal, matching=matching, tile_bytes=tile_bytes, sweep=sweep
        )
        results.append((got, torch.autograd.grad(got.loss, inputs)))
    for (a, grads_a), (b, grads_b) in itertools.pairwise(results):
        torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=1e-6, atol=1e-6)
        for mine, theirs in zip(grads_a, grads_b, strict=True):
            assert distance(mine, theirs) < 1e-6


@pytest.mark.parametrize("kind", HEADS)
def test_cross_entropy_alone_equals_torch(case: Case, kind: str) -> None:
    head, finish = head_of(kind, H, V)
    inputs = [case.hidden_RH.requires_grad_(), *trained(head)]

    logits_RV = head(inputs[0]) if finish is None else finish(head(inputs[0]))
    expected = nn.functional.cross_entropy(logits_RV, case.labels_R, reduction="sum")
    got = head_loss(inputs[0], case.labels_R, head, finish=finish, tile_bytes=1)

    torch.testing.assert_close(got.loss, expected, rtol=1e-13, atol=0)
    for mine, theirs in zip(torch.autograd.grad(got.loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert distance(mine, theirs) < 3e-14


def test_a_head_tied_to_the_embeddings_gives_them_both_gradients(case: Case) -> None:
    table = nn.Embedding(V, H, dtype=torch.float64)
    head = nn.Linear(H, V, bias=False)
    head.weight = table.weight
    signal, matching = teacher_of(case.teacher_RV), Matching(build("reverse_kl"), 0.5, 1.0, SHARED)

    hidden_RH = table(case.labels_R).tanh()
    ours = head_loss(hidden_RH, case.labels_R, head, teacher=signal, matching=matching).loss
    (mine,) = torch.autograd.grad(ours, table.weight, retain_graph=False)
    hidden_RH = table(case.labels_R).tanh()
    theirs = naive.loss(
        head(hidden_RH), case.labels_R, signal, case.teacher_RV, name="reverse_kl", weight=0.5, temperature=1.0
    )
    assert distance(mine, torch.autograd.grad(theirs, table.weight)[0]) < 3e-14


@pytest.mark.filterwarnings("ignore")  # of bitsandbytes, on machines without a GPU
@pytest.mark.parametrize(("mode", "name"), [("topk", "jsd"), ("sampled", "forward_kl"), ("full", "reverse_kl")])
def test_a_4_bit_head_is_called_as_a_module(mode: str, name: str) -> None:
    """Equal to autograd through the quantised module itself; a path that read `.weight` would read packed bytes."""
    quantised = pytest.importorskip("bitsandbytes").nn.Linear4bit
    torch.manual_seed(0)
    case, wide = Case(torch.float32), 64
    head = quantised(wide, V, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    head.weight.data.normal_(std=0.3)
    head = head.to("cpu").requires_grad_(False)
    hidden_RH = torch.randn(R, wide, requires_grad=True)
    head(hidden_RH)  # quantises
    signal, matching = signal_of(mode, case.teacher_RV.float(), 2.0), Matching(build(name), 0.5, 2.0, SHARED)

    theirs = naive.loss(
        head(hidden_RH), case.labels_R, signal, case.teacher_RV.float(), name=name, weight=0.5, temperature=2.0
    )
    ours = head_loss(hidden_RH, case.labels_R, head, teacher=signal, matching=matching, tile_bytes=10 * V * 16).loss
    assert head.weight.dtype == torch.uint8
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert distance(torch.autograd.grad(ours, hidden_RH)[0], torch.autograd.grad(theirs, hidden_RH)[0]) < 1e-5


# ---- precision


@pytest.mark.parametrize(("mode", "name"), [(None, ""), *MODES])
@pytest.mark.parametrize("kind", ["plain", "frozen"])
@pytest.mark.parametrize("rows", [R, 2 * H])
def test_half_precision_loses_no_more_than_its_inputs(
    case: Case, mode: str | None, name: str, kind: str, rows: int
) -> None:
    """bf16 products, float32 in between: gradients within the 2^-8 of a bf16 number of those in float64.

    Up to 2 H rows the weight's gradient is one product, above a float32 sum over chunks.
    """
    torch.manual_seed(1)
    low, _ = head_of(kind, H, V, torch.bfloat16)
    head, _ = head_of(kind, H, V)
    head.load_state_dict(low.state_dict())
    low_RH, labels_R, teacher_RV = (
        case.hidden_RH[:rows].to(torch.bfloat16),
        case.labels_R[:rows],
        case.teacher_RV[:rows],
    )
    got = []
    for one, hidden_RH in ((head, low_RH.double()), (low, low_RH)):
        dtype = torch.promote_types(hidden_RH.dtype, torch.float32)
        about: dict[str, Any] = {}
        if mode is not None:
            about = {"teacher": signal_of(mode, teacher_RV.to(dtype), 1.0)}
            about["matching"] = Matching(build(name), 0.5, 1.0, SHARED)
        hidden_RH = hidden_RH.requires_grad_()
        loss = head_loss(hidden_RH, labels_R, one, **about, tile_bytes=10 * V * 2).loss
        got.append((loss, torch.autograd.grad(loss, [hidden_RH, *trained(one)])))
    (exact, exact_grads), (value, grads) = got
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=2e-3)
    for mine, theirs in zip(grads, exact_grads, strict=True):
        assert distance(mine, theirs) < 2**-8


@pytest.mark.parametrize("sweep", [True, False])
@pytest.mark.parametrize("signal", [None, "topk", "sampled"])
def test_a_confident_token_keeps_its_small_gradient_in_half_precision(sweep: bool, signal: str | None) -> None:
    """Nearly all mass on the label: its gradient is (q - 1) W, which a sum of bf16 products and -W would drown."""
    torch.manual_seed(0)
    wide, vocab = 32, 9_000
    head = nn.Linear(wide, vocab, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    head.weight.normal_(std=0.3)
    exact = nn.Linear(wide, vocab, bias=False, dtype=torch.float64).requires_grad_(False)
    exact.weight.copy_(head.weight)
    labels_R = torch.arange(0, vocab, 20)
    q_R = exact(6 * head.weight[labels_R].double()).softmax(1).gather(1, labels_R[:, None])[:, 0]
    labels_R = labels_R[(q_R > 0.99) & (q_R < 0.9999)]
    assert len(labels_R) > 20
    hidden_RH = 6 * head.weight[labels_R]
    teacher_RV = 0.97 * exact(hidden_RH.double())
    grads = []
    for one, x in ((exact, hidden_RH.double()), (head, hidden_RH)):
        about: dict[str, Any] = {}
        if signal is not None:
            about = {"teacher": signal_of(signal, teacher_RV.to(torch.promote_types(x.dtype, torch.float32)), 1.0)}
            about["matching"] = Matching(build("forward_kl"), 0.5, 1.0, vocab)
        x = x.detach().requires_grad_()
        loss = head_loss(x, labels_R, one, **about, sweep=sweep).loss
        grads.append(torch.autograd.grad(loss, x)[0])
    assert distance(grads[1], grads[0]) < 0.13  # its logits are rounded to bf16, so 1 - q itself is that far off


@pytest.mark.parametrize("sweep", [True, False])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_near_equal_bf16_models_have_a_small_kl_that_is_right(name: str, sweep: bool) -> None:
    """The softmax and all sums are in float32: never below -1e-6, and within 1 % of float64 on the same logits."""
    torch.manual_seed(0)
    rows, wide, vocab = 64, 32, 5_000
    hidden_RH = torch.randn(rows, wide, dtype=torch.bfloat16)
    head = nn.Linear(wide, vocab, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    head.weight.normal_(std=0.5)
    near = nn.Linear(wide, vocab, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    near.weight.copy_(head.weight + 0.01 * torch.randn_like(head.weight))
    teacher_RV = head(hidden_RH).double()
    signal = teacher_of(teacher_RV, k=16)
    single = TeacherRows(signal.ids_RK, signal.logprobs_RK.float(), signal.tail_R.float(), signal.present_R)
    labels_R, matching = teacher_RV.argmax(1), Matching(build(name), 1.0, 1.0, vocab)

    got = head_loss(hidden_RH, labels_R, near, teacher=single, matching=matching, sweep=sweep).kd
    expected = naive.loss(
        near(hidden_RH).double(), labels_R, signal, teacher_RV, name=name, weight=1.0, temperature=1.0
    )
    same = head_loss(hidden_RH, labels_R, head, teacher=single, matching=matching, sweep=sweep).kd

    assert got.item() == pytest.approx(expected.item(), rel=1e-2)
    assert 1e-4 < got / rows < 0.1
    assert abs(same / rows) < 1e-6


@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_self_distillation_is_zero_and_a_shift_is_not(
    mode: str, name: str, temperature: float, stored: torch.dtype, kind: str
) -> None:
    """A peaked teacher over a real vocabulary: student = teacher gives 1e-5 a token and 1e-6 in the mean."""
    torch.manual_seed(0)
    rows, vocab = 16, 151_936 if (name, temperature) == ("forward_kl", 1.0) else 20_000
    hidden_RH, (head, _) = torch.randn(rows, 8), head_of(kind, 8, vocab, torch.float32)
    with torch.no_grad():
        head.weight.normal_(std=2.5)
        logits_RV = head(hidden_RH)
    signal: Signal
    if mode == "topk":
        made = teacher_of(logits_RV, temperature, k=16)
        signal = TeacherRows(made.ids_RK, made.logprobs_RK.to(stored), made.tail_R, made.present_R)
    elif mode == "sampled":  # with the draws' own log-probabilities in place of the entropy
        drawn = sampled_of(logits_RV, temperature)
        own_RS = (logits_RV.double() / temperature).log_softmax(1).gather(1, drawn.ids_RK)
        entropy_R = -(drawn.weights_RK * own_RS).sum(1).float()
        signal = SampledRows(drawn.ids_RK, drawn.weights_RK, entropy_R, drawn.present_R)
    else:
        signal = LiveRows(hidden_RH, head, None, torch.ones(rows, dtype=torch.bool))
    matching, labels_R = Matching(build(name), 1.0, temperature, vocab), logits_RV.argmax(1)

    def kd(signal: Signal, span: slice = slice(None)) -> float:
        part = signal.rows(span)
        got = head_loss(hidden_RH[span], labels_R[span], head, teacher=part, matching=matching).kd
        return float(got) / len(part.present_R)

    each = [kd(signal, slice(n, n + 1)) for n in range(rows)]
    order_R = torch.arange(rows).roll(1)
    shifted = {field: value[order_R] if isinstance(value, Tensor) else value for field, value in vars(signal).items()}

    # Draws see the error of torch's own float32 softmax over 151,936 entries (2e-5); whole distributions cancel it.
    by_token, in_mean = (3e-5, 1e-5) if mode == "sampled" else (1e-5, 1e-6)
    assert max(map(abs, each)) < by_token
    assert abs(kd(signal)) < in_mean
    assert kd(type(signal)(**shifted)) > 0.1


def test_a_vanishing_tail_keeps_its_logarithm() -> None:
    """150 nats between the ids and the tail: 1 - sum(q) is 0 in float32, the log-space tail is right to 1e-5."""
    logits_RV = torch.full((1, 50), -150.0)
    logits_RV[0, :3] = torch.tensor([1.0, 0.5, 0.0])
    p_RK, tail_R = torch.tensor([[0.5, 0.3, 0.1]]), torch.tensor([0.1])
    signal = TeacherRows(torch.tensor([[0, 1, 2]]), p_RK.log(), tail_R.log(), torch.tensor([True]))
    double = TeacherRows(signal.ids_RK, signal.logprobs_RK.double(), signal.tail_R.double(), signal.present_R)
    z_RV, labels_R = logits_RV.double(), torch.tensor([0])
    expected = naive.loss(z_RV, labels_R, double, z_RV, name="forward_kl", weight=1.0, temperature=1.0)
    for trains in (True, False):
        identity = nn.Linear(50, 50, bias=False).requires_grad_(trains)
        with torch.no_grad():
            identity.weight.copy_(torch.eye(50))
        x = logits_RV.clone().requires_grad_()
        matching = Matching(build("forward_kl"), 1.0, 1.0, 50)
        got = head_loss(x, labels_R, identity, teacher=signal, matching=matching).loss
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.autograd.grad(got, x)[0].isfinite().all()


# ---- what each mode sees


def test_mass_outside_the_teachers_ids_is_seen() -> None:
    """Half of the student's mass leaks outside the teacher's top 64: only the tail bucket sees it."""
    torch.manual_seed(0)
    vocab, k = 2_000, 64
    teacher_RV = torch.randn(8, vocab) * 4
    teacher = teacher_of(teacher_RV, k=k, dtype=torch.float32)
    p_RV = teacher_RV.softmax(1)
    student_RV = torch.zeros_like(p_RV).scatter(1, teacher.ids_RK, p_RV.gather(1, teacher.ids_RK))
    student_RV = 0.5 * student_RV / student_RV.sum(1, keepdim=True)
    outside_RV = torch.ones_like(p_RV).scatter(1, teacher.ids_RK, 0.0)
    student_RV += 0.5 * outside_RV / outside_RV.sum(1, keepdim=True)
    identity = nn.Linear(vocab, vocab, bias=False)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(vocab))
    matching, labels_R = Matching(build("forward_kl"), 1.0, 1.0, vocab), teacher.ids_RK[:, 0]

    by_tail = head_loss(student_RV.log(), labels_R, identity, teacher=teacher, matching=matching).kd / 8
    live = live_of(teacher_RV)
    in_full = head_loss(student_RV.log(), labels_R, identity, teacher=live, matching=matching).kd / 8
    top_RK = student_RV.gather(1, teacher.ids_RK)
    p_RK = teacher.logprobs_RK.softmax(1)
    renormalised = naive.divergence("forward_kl", p_RK, top_RK / top_RK.sum(1, keepdim=True)).mean()

    assert abs(renormalised) < 1e-5
    assert in_full.item() == pytest.approx(naive.divergence("forward_kl", p_RV, student_RV).mean().item(), rel=1e-5)
    assert 0.4 < by_tail <= in_full + 1e-6


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_the_full_vocabulary_is_top_k_with_all_ids_but_one(case: Case, name: str, temperature: float) -> None:
    head, _ = head_of("plain", H, V)
    matching, inputs, got = Matching(build(name), 0.7, temperature, SHARED), [case.hidden_RH.requires_grad_()], []
    for signal in (teacher_of(case.teacher_RV, temperature, k=SHARED - 1), live_of(case.teacher_RV)):
        loss = head_loss(inputs[0], case.labels_R, head, teacher=signal, matching=matching).loss
        got.append((loss, torch.autograd.grad(loss, inputs)[0]))
    assert got[0][0].item() == pytest.approx(got[1][0].item(), rel=1e-13)
    assert distance(got[0][1], got[1][1]) < 3e-13


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_the_mean_gradient_of_all_possible_draws_is_the_full_gradient(temperature: float, kind: str) -> None:
    """Exactly: every pair of draws from a vocabulary of 7, weighted by its probability."""
    torch.manual_seed(0)
    vocab, rows = 7, 3
    head, _ = head_of(kind, H, vocab)
    hidden_RH = torch.randn(rows, H, dtype=torch.float64, requires_grad=True)
    log_p_RV = (torch.randn(rows, vocab, dtype=torch.float64) * 2).log_softmax(1)
    soft_RV = (log_p_RV / temperature).log_softmax(1)
    matching, labels_R = Matching(build("forward_kl"), 0.8, temperature, vocab), torch.arange(rows)
    inputs = [hidden_RH, *trained(head)]

    def gradients(signal: Signal) -> list[Tensor]:
        loss = head_loss(hidden_RH, labels_R, head, teacher=signal, matching=matching).loss
        return [loss.detach(), *torch.autograd.grad(loss, inputs)]

    mean = [torch.zeros_like(one) for one in [torch.zeros((), dtype=torch.float64), *inputs]]
    for row, pair in itertools.product(range(rows), itertools.product(range(vocab), repeat=2)):
        ids_RS = torch.tensor([pair] * rows)
        weights_RS = (soft_RV - log_p_RV).exp().gather(1, ids_RS) / 2
        entropy_R = -(soft_RV.exp() * soft_RV).sum(1)
        present_R = torch.arange(rows) == row  # one row at a time, so that the draws of rows do not multiply
        probability = log_p_RV[row].exp()[list(pair)].prod()
        got = gradients(SampledRows(ids_RS, weights_RS, entropy_R, present_R))
        for total, part in zip(mean, got, strict=True):
            total += probability * part
    expected = [torch.zeros_like(one) for one in mean]
    for row in range(rows):
        live = naive.absent(live_of(log_p_RV, padding=0), torch.arange(rows) == row)
        for total, part in zip(expected, gradients(live), strict=True):
            total += part
    for mine, theirs in zip(mean, expected, strict=True):
        assert distance(mine, theirs) < 1e-13


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_mean_gradient_of_many_draws_tends_to_the_full_gradient(temperature: float) -> None:
    """Over 2,000 entries: the distance of the mean of n draws falls as 1 / sqrt(n), and top-k's does not vanish."""
    torch.manual_seed(0)
    rows, wide, vocab = 4, 16, 2_000
    head = nn.Linear(wide, vocab, bias=False).requires_grad_(False)
    hidden_RH = torch.randn(rows, wide, requires_grad=True)
    teacher_RV = torch.randn(rows, vocab) * 2
    matching, labels_R = Matching(build("forward_kl"), 1.0, temperature, vocab), torch.zeros(rows, dtype=torch.long)

    def gradient(signal: Signal) -> Tensor:
        loss = head_loss(hidden_RH, labels_R, head, teacher=signal, matching=matching).loss
        return torch.autograd.grad(loss, hidden_RH)[0]

    full_RH = gradient(live_of(teacher_RV))
    errors = {n: distance(gradient(sampled_of(teacher_RV, temperature, n, seed=7)), full_RH) for n in (400, 40_000)}
    print(errors, distance(gradient(teacher_of(teacher_RV, temperature, k=16, dtype=torch.float32)), full_RH))
    assert errors[40_000] < 0.2 * errors[400]
    assert distance(gradient(teacher_of(teacher_RV, temperature, k=16, dtype=torch.float32)), full_RH) > 0.05


def test_the_printed_divergence_of_draws_is_a_kl_where_the_entropy_is_known(case: Case) -> None:
    head, _ = head_of("plain", H, V)
    drawn = sampled_of(case.teacher_RV, 1.0, draws=200_000)
    matching = Matching(build("forward_kl"), 0.5, 1.0, SHARED)

    def kd(signal: Signal) -> float:
        return float(head_loss(case.hidden_RH, case.labels_R, head, teacher=signal, matching=matching).kd) / R

    expected = kd(live_of(case.teacher_RV))
    unknown_R = torch.full((R,), math.nan, dtype=torch.float64)
    crossed = kd(SampledRows(drawn.ids_RK, drawn.weights_RK, unknown_R, drawn.present_R))
    assert kd(drawn) == pytest.approx(expected, rel=5e-3)
    assert crossed == pytest.approx(kd(drawn) + float(drawn.entropy_R.mean()), rel=1e-9)


# ---- what is refused, absent, or padding


@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize("kind", ["plain", "frozen", "biased"])
def test_padding_rows_of_the_head_change_no_divergence(case: Case, mode: str, name: str, kind: str) -> None:
    """Zero-filled rows would give the student free mass where nothing slices them off."""
    head, _ = head_of(kind, H, SHARED)
    padded, _ = head_of(kind, H, V)
    state = {field: torch.zeros_like(value) for field, value in padded.state_dict().items()}
    for field, value in head.state_dict().items():
        state[field][:SHARED] = value
    padded.load_state_dict(state)
    signal, matching = signal_of(mode, case.teacher_RV, 1.0), Matching(build(name), 1.0, 1.0, SHARED)
    x = case.hidden_RH.requires_grad_()

    plain = head_loss(x, case.labels_R, head, teacher=signal, matching=matching)
    got = head_loss(x, case.labels_R, padded, teacher=signal, matching=matching)

    torch.testing.assert_close(got.kd, plain.kd, rtol=1e-13, atol=0)
    mine, theirs = (torch.autograd.grad(one.loss, [x, *trained(of)]) for one, of in ((got, padded), (plain, head)))
    assert distance(mine[0], theirs[0]) < 1e-13
    assert all(not grad[SHARED:].any() for grad in mine[1:])
    assert got.ce > plain.ce  # cross-entropy does see them, and pushes them down


def test_a_label_in_the_padding_is_still_a_label(case: Case) -> None:
    """No tokenizer makes one; the three ways agree on it all the same."""
    head, _ = head_of("frozen", H, V)
    labels_R = torch.where(torch.arange(R) % 3 == 0, SHARED + 2, case.labels_R)
    signal, matching = teacher_of(case.teacher_RV), Matching(build("forward_kl"), 0.5, 1.0, SHARED)
    x = case.hidden_RH.requires_grad_()
    expected = naive.loss(
        head(x), labels_R, signal, case.teacher_RV, name="forward_kl", weight=0.5, temperature=1.0
    )  # fmt: skip
    theirs = torch.autograd.grad(expected, x)[0]
    for sweep in (True, False):
        got = head_loss(x, labels_R, head, teacher=signal, matching=matching, sweep=sweep).loss
        assert got.item() == pytest.approx(expected.item(), rel=1e-13)
        assert distance(torch.autograd.grad(got, x)[0], theirs) < 3e-14


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize(("mode", "name"), MODES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("trains", [True, False])
def test_absent_rows_and_empty_teacher_mass_leave_all_gradients_finite(
    mode: str, name: str, temperature: float, trains: bool
) -> None:
    """Rows with NaN entries that are not present, and teacher entries of probability zero, under anomaly detection."""
    torch.manual_seed(0)
    hidden_RH = torch.randn(6, H, requires_grad=True)
    head = nn.Linear(H, V).requires_grad_(trains)
    present_R = torch.tensor([True] * 3 + [False] * 3)
    ids_RK, signal = torch.arange(4).repeat(6, 1), None
    if mode == "topk":
        logprobs_RK = torch.tensor([0.6, 0.4, 1e-30, 0.0]).log().repeat(6, 1)
        logprobs_RK[3:] = math.nan
        tail_R = torch.tensor([-math.inf] * 3 + [math.nan] * 3)
        signal = TeacherRows(ids_RK, logprobs_RK, tail_R, present_R)
    elif mode == "sampled":
        weights_RK = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(6, 1)
        weights_RK[3:] = math.nan
        signal = SampledRows(ids_RK, weights_RK, torch.tensor([0.0, math.nan, 1.0] + [math.nan] * 3), present_R)
    else:
        hidden_RG = torch.randn(6, 4)
        hidden_RG[:, 0] = 400.0  # p = 1 for one entry, exactly 0 for the rest
        teacher = nn.Linear(4, V, bias=False)
        with torch.no_grad():
            teacher.weight[:, 0] = 0.0
            teacher.weight[3, 0] = 1.0
        signal = LiveRows(hidden_RG, teacher, None, present_R)
    matching = Matching(build(name), 0.5, temperature, V)
    with torch.autograd.detect_anomaly(check_nan=True):
        got = head_loss(hidden_RH, torch.arange(6), head, teacher=signal, matching=matching)
        got.loss.backward()
    assert all(value.isfinite() for value in got)
    assert hidden_RH.grad is not None and hidden_RH.grad.isfinite().all()
    assert not trains or (head.weight.grad is not None and head.weight.grad.isfinite().all())


def test_a_row_without_a_teacher_trains_by_cross_entropy_at_full_weight(case: Case) -> None:
    """In every mode: what `positions` leaves out, what was rendered, what was not recorded."""
    head, _ = head_of("plain", H, V)
    alone = head_loss(case.hidden_RH, case.labels_R, head)
    for mode, name in MODES:
        signal = naive.absent(signal_of(mode, case.teacher_RV, 2.0), torch.zeros(R, dtype=torch.bool))
        matching = Matching(build(name), 0.9, 2.0, SHARED)
        got = head_loss(case.hidden_RH, case.labels_R, head, teacher=signal, matching=matching)
        torch.testing.assert_close(got.loss, alone.loss, rtol=1e-14, atol=0)
        assert got.kd == 0 and got.covered == 0


@pytest.mark.parametrize("mode", ["topk", "sampled", "full"])
@pytest.mark.parametrize("kind", ["plain", "frozen", "adapted"])
def test_no_rows_give_a_zero_that_is_connected(mode: str, kind: str) -> None:
    hidden_RH = torch.zeros(0, H, dtype=torch.float64, requires_grad=True)
    head, _ = head_of(kind, H, V)
    signal = signal_of(mode, torch.zeros(1, SHARED, dtype=torch.float64), 1.0).rows(slice(0, 0))
    loss = head_loss(
        hidden_RH, torch.zeros(0, dtype=torch.long), head, teacher=signal,
        matching=Matching(build("forward_kl"), 0.5, 1.0, SHARED),
    ).loss  # fmt: skip
    loss.backward()
    assert loss.item() == 0
    assert all(one.grad is not None and not one.grad.any() for one in (hidden_RH, *trained(head)))


def test_draws_are_refused_by_every_divergence_but_forward_kl(case: Case) -> None:
    head, _ = head_of("plain", H, V)
    for name in DIVERGENCES:
        matching = Matching(build(name), 0.5, 1.0, SHARED)
        if name == "forward_kl":
            head_loss(case.hidden_RH, case.labels_R, head, teacher=sampled_of(case.teacher_RV), matching=matching)
        else:
            with pytest.raises(ValueError, match="unbiased for `forward_kl` only"):
                head_loss(case.hidden_RH, case.labels_R, head, teacher=sampled_of(case.teacher_RV), matching=matching)


def test_shapes_and_ids_that_do_not_fit_are_refused(case: Case) -> None:
    head, _ = head_of("plain", H, V)
    matching, whole = Matching(build("jsd"), 0.5, 1.0, SHARED), teacher_of(case.teacher_RV)
    with pytest.raises(ValueError, match="differ in number"):
        head_loss(case.hidden_RH, case.labels_R[:-1], head)
    with pytest.raises(ValueError, match="differ in number"):
        head_loss(case.hidden_RH, case.labels_R, head, teacher=whole.rows(slice(0, 5)), matching=matching)
    with pytest.raises(ValueError, match="come together"):
        head_loss(case.hidden_RH, case.labels_R, head, matching=matching)
    every = teacher_of(case.teacher_RV, k=SHARED)
    with pytest.raises(ValueError, match="teacher ids a row in a vocabulary"):
        head_loss(case.hidden_RH, case.labels_R, head, teacher=every, matching=matching)
    for wrong in (SHARED, -1):
        beyond = TeacherRows(whole.ids_RK.clone(), whole.logprobs_RK, whole.tail_R, whole.present_R)
        beyond.ids_RK[3, 2] = wrong
        with pytest.raises(ValueError, match=f"teacher id {wrong} in a vocabulary of {SHARED}"):
            head_loss(case.hidden_RH, case.labels_R, head, teacher=beyond, matching=matching)


# ---- work that is not done, memory that is not taken


@pytest.mark.parametrize("sweep", [True, False])
def test_nothing_is_differentiated_for_a_frozen_head_or_without_grad(
    monkeypatch: pytest.MonkeyPatch, sweep: bool
) -> None:
    import students.head_loss as module

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a gradient of the head's weight was made")

    monkeypatch.setattr(module, "_add_outer", refuse)
    hidden_RH, head = torch.randn(4, H, requires_grad=True), nn.Linear(H, V).requires_grad_(False)
    head_loss(hidden_RH, torch.arange(4), head, sweep=sweep).loss.backward()
    with torch.no_grad():
        loss = head_loss(hidden_RH, torch.arange(4), head.requires_grad_(True), sweep=sweep).loss
    assert not loss.requires_grad
    with pytest.raises(AssertionError):  # the guard itself works
        head_loss(hidden_RH, torch.arange(4), head)


def test_a_gradient_is_handed_out_once(case: Case) -> None:
    head, _ = head_of("plain", H, V)
    loss = head_loss(case.hidden_RH.requires_grad_(), case.labels_R, head).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


@pytest.mark.parametrize(
    ("mode", "name"), [(None, ""), ("topk", "jsd"), ("sampled", "forward_kl"), ("full", "reverse_kl")]
)
@pytest.mark.parametrize("kind", ["plain", "frozen", "adapted"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_peak_memory_does_not_grow_with_the_rows(mode: str | None, name: str, kind: str, temperature: float) -> None:
    """4 times the rows: apart from what has the size of the hidden states, the same largest tensor, far from R x V."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for item in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(item, Tensor):
                    self.size = max(self.size, item.numel())
            return out

    vocab, sizes = 4_000, []
    budget = vocab * 4 * 64
    for rows in (128, 512):
        head, _ = head_of(kind, H, vocab, torch.float32)
        hidden_RH = torch.randn(rows, H, requires_grad=True)
        about: dict[str, Any] = {}
        if mode == "full":  # a teacher of another width
            teacher = nn.Linear(5, vocab + 7)
            about["teacher"] = LiveRows(torch.randn(rows, 5), teacher, None, torch.ones(rows, dtype=torch.bool))
        elif mode is not None:
            about["teacher"] = signal_of(mode, torch.randn(rows, vocab), temperature)
        if mode is not None:
            about["matching"] = Matching(build(name), 0.5, temperature, vocab)
        with Largest() as largest:
            labels_R = torch.zeros(rows, dtype=torch.long)
            head_loss(hidden_RH, labels_R, head, **about, tile_bytes=budget).loss.backward()
        sizes.append(largest.size)
    assert sizes[0] == sizes[1] <= 64 * vocab
