"""The chunked head loss against plain autograd over full logits, in float64.

Shapes as in students/head_loss.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.core import plugins
from students.divergence import Divergence
from students.head_loss import HeadLoss, Matching, TeacherRows, head_loss

R, H, V, K = 37, 12, 61, 5
DIVERGENCES = plugins.names("students.losses")


def build(name: str, **settings: Any) -> Divergence:
    module = plugins.load("students.losses", name)
    divergence: Divergence = module.build(module.Config(**settings))
    return divergence


def naive_divergence(name: str, teacher_RB: Tensor, student_RB: Tensor) -> Tensor:
    """Each divergence written from its definition on probabilities, for autograd."""
    p, q = teacher_RB.exp(), student_RB.exp()
    if name == "forward_kl":
        return (p * (p / q).log()).sum(1)
    if name == "reverse_kl":
        return (q * (q / p).log()).sum(1)
    m = 0.5 * (p + q)
    return 0.5 * (p * (p / m).log()).sum(1) + 0.5 * (q * (q / m).log()).sum(1)


def teacher_of(
    logits_RV: Tensor, temperature: float = 1.0, k: int = K, dtype: torch.dtype = torch.float64
) -> TeacherRows:
    """The sparse record of full teacher logits, with its exact tail term."""
    log_p_RV = logits_RV.log_softmax(1)
    values_RK, ids_RK = log_p_RV.topk(k, dim=1)
    rest_RV = (log_p_RV / temperature).scatter(1, ids_RK, -math.inf)
    return TeacherRows(ids_RK, values_RK.to(dtype), rest_RV.logsumexp(1), torch.ones(len(logits_RV), dtype=torch.bool))


def naive(
    logits_RV: Tensor, labels_R: Tensor, teacher: TeacherRows, name: str, weight: float, temperature: float, vocab: int
) -> Tensor:
    """The same loss with full logits, logarithms of probabilities and autograd."""
    ce_R = -logits_RV.log_softmax(1).gather(1, labels_R[:, None])[:, 0]
    q_RV = (logits_RV[:, :vocab] / temperature).softmax(1)
    top_RK = q_RV.gather(1, teacher.ids_RK)
    tail_R1 = q_RV.scatter(1, teacher.ids_RK, 0.0).sum(1, keepdim=True)
    student_RB = torch.cat([top_RK, tail_R1], 1).log()
    recorded_RB = torch.cat([teacher.logprobs_RK / temperature, teacher.tail_R[:, None]], 1)
    kd_R = naive_divergence(name, recorded_RB.log_softmax(1), student_RB)
    w_R = teacher.present_R.to(ce_R.dtype) * weight
    return ((1 - w_R) * ce_R + w_R * temperature**2 * kd_R).sum()


@pytest.fixture
def case() -> dict[str, Any]:
    torch.manual_seed(0)
    hidden_RH = torch.randn(R, H, dtype=torch.float64)
    teacher = teacher_of(torch.randn(R, V - 6, dtype=torch.float64) * 2)
    labels_R = torch.where(torch.rand(R) < 0.5, teacher.ids_RK[:, 0], torch.randint(0, V - 6, (R,)))
    return {"hidden": hidden_RH, "labels": labels_R, "teacher_logits": torch.randn(R, V - 6, dtype=torch.float64) * 2}


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_equal_plain_autograd(
    case: dict[str, Any], name: str, temperature: float, bias: bool
) -> None:
    head = nn.Linear(H, V, bias=bias).double()
    teacher = teacher_of(case["teacher_logits"], temperature)
    teacher = TeacherRows(teacher.ids_RK, teacher.logprobs_RK, teacher.tail_R, torch.arange(R) % 4 != 1)
    matching = Matching(build(name), 0.3, temperature, vocab_size=V - 6)
    inputs = [case["hidden"].clone().requires_grad_(), *head.parameters()]

    expected = naive(head(inputs[0]), case["labels"], teacher, name, 0.3, temperature, V - 6)
    expected_grads = torch.autograd.grad(1.7 * expected, inputs)
    got = head_loss(inputs[0], case["labels"], head, teacher=teacher, matching=matching, tile_bytes=10 * V * 8)
    got_grads = torch.autograd.grad(1.7 * got.loss, inputs)

    assert got.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, theirs in zip(got_grads, expected_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_printed_loss_is_the_loss_that_is_optimised(case: dict[str, Any], name: str, temperature: float) -> None:
    """Finite differences of the value equal the returned gradient: T squared is in both, or in neither."""
    head = nn.Linear(H, V, bias=False).double()
    teacher, matching = teacher_of(case["teacher_logits"], temperature), Matching(build(name), 0.6, temperature, V - 6)

    def loss(hidden_RH: Tensor) -> Tensor:
        return head_loss(hidden_RH, case["labels"], head, teacher=teacher, matching=matching).loss

    hidden_RH = case["hidden"].requires_grad_()
    (grad_RH,) = torch.autograd.grad(loss(hidden_RH), hidden_RH)
    direction_RH = torch.randn(R, H, dtype=torch.float64)
    step = 1e-5
    slope = (loss(hidden_RH + step * direction_RH) - loss(hidden_RH - step * direction_RH)) / (2 * step)

    assert (grad_RH * direction_RH).sum().item() == pytest.approx(slope.item(), rel=1e-7)


def test_cross_entropy_alone_equals_torch(case: dict[str, Any]) -> None:
    head = nn.Linear(H, V).double()
    inputs = [case["hidden"].clone().requires_grad_(), *head.parameters()]

    expected = nn.functional.cross_entropy(head(inputs[0]), case["labels"], reduction="sum")
    got = head_loss(inputs[0], case["labels"], head, tile_bytes=1)

    torch.testing.assert_close(got.loss, expected, rtol=1e-13, atol=0)
    for mine, theirs in zip(torch.autograd.grad(got.loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13)


class Adapted(nn.Module):
    """A head with a low-rank adapter, as peft wraps one; called as a module."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(3, base.in_features, dtype=torch.float64) * 0.1)
        self.b = nn.Parameter(torch.randn(base.out_features, 3, dtype=torch.float64) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.a.t() @ self.b.t()
        return out


FINISHES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "plain": None, "softcapped": lambda z: 5.0 * torch.tanh(z / 5.0), "scaled": lambda z: 0.25 * z,
}  # fmt: skip


@pytest.mark.parametrize("finish", list(FINISHES))
@pytest.mark.parametrize(("name", "temperature"), [("reverse_kl", 2.0), ("forward_kl", 1.0)])
def test_any_other_head_is_called_as_a_module(case: dict[str, Any], finish: str, name: str, temperature: float) -> None:
    torch.manual_seed(1)
    head = Adapted(nn.Linear(H, V).double())
    teacher, matching = teacher_of(case["teacher_logits"], temperature), Matching(build(name), 0.5, temperature, V - 6)
    end = FINISHES[finish]
    inputs = [case["hidden"].clone().requires_grad_(), head.a, head.b]

    logits_RV = head(inputs[0])
    expected = naive(
        logits_RV if end is None else end(logits_RV), case["labels"], teacher, name, 0.5, temperature, V - 6
    )
    expected_grads = torch.autograd.grad(expected, inputs)
    got = head_loss(
        inputs[0], case["labels"], head, teacher=teacher, matching=matching, finish=end, tile_bytes=9 * V * 32
    )

    torch.testing.assert_close(got.loss, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(torch.autograd.grad(got.loss, inputs), expected_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


def test_a_softcap_on_a_plain_head_is_not_skipped(case: dict[str, Any]) -> None:
    head, end = nn.Linear(H, V).double(), FINISHES["softcapped"]
    assert end is not None
    expected = nn.functional.cross_entropy(end(head(case["hidden"])), case["labels"], reduction="sum")
    got = head_loss(case["hidden"], case["labels"], head, finish=end)
    torch.testing.assert_close(got.loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_head_loses_no_more_than_its_inputs(case: dict[str, Any], dtype: torch.dtype) -> None:
    head = nn.Linear(H, V, bias=False).double()
    teacher, matching = teacher_of(case["teacher_logits"]), Matching(build("forward_kl"), 0.5, 1.0, V - 6)
    exact, low = case["hidden"].clone().requires_grad_(), case["hidden"].to(dtype).requires_grad_()
    low_head = nn.Linear(H, V, bias=False).to(dtype)
    low_head.load_state_dict(head.state_dict())

    grads = torch.autograd.grad(
        head_loss(exact, case["labels"], head, teacher=teacher, matching=matching).loss, [exact, head.weight]
    )
    loss = head_loss(low, case["labels"], low_head, teacher=teacher, matching=matching, tile_bytes=10 * V * 6).loss
    low_grads = torch.autograd.grad(loss, [low, low_head.weight])

    bound = 3e-6 if dtype is torch.float32 else 2e-2
    assert loss.dtype == torch.float32
    for mine, theirs in zip(low_grads, grads, strict=True):
        assert (mine.double() - theirs).norm() / theirs.norm() < bound


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_self_distillation_is_zero_and_a_shift_is_not(name: str, temperature: float, stored: torch.dtype) -> None:
    """A peaked teacher: student = teacher gives 1e-5 a token and 1e-6 in the mean (fp16 storage: 1e-5)."""
    torch.manual_seed(0)
    rows, vocab = 16, 151_936 if name == "forward_kl" and temperature == 1.0 else 20_000
    hidden_RH, head = torch.randn(rows, 8), nn.Linear(8, vocab, bias=False)
    with torch.no_grad():
        head.weight.normal_(std=2.5)
        logits_RV = head(hidden_RH)
    teacher = teacher_of(logits_RV, temperature, k=16, dtype=stored)
    matching = Matching(build(name), 1.0, temperature, vocab)

    def kd(rows_: TeacherRows) -> float:
        return float(head_loss(hidden_RH, rows_.ids_RK[:, 0], head, teacher=rows_, matching=matching).kd) / rows

    one = [
        head_loss(
            hidden_RH[i : i + 1],
            teacher.ids_RK[i : i + 1, 0],
            head,
            teacher=teacher.rows(slice(i, i + 1)),
            matching=matching,
        ).kd
        for i in range(rows)
    ]
    shifted = TeacherRows(
        teacher.ids_RK.roll(1, 0), teacher.logprobs_RK.roll(1, 0), teacher.tail_R.roll(1), teacher.present_R
    )

    assert max(abs(float(value)) for value in one) < 1e-5
    assert abs(kd(teacher)) < (1e-6 if stored is torch.float32 else 1e-5)
    assert kd(shifted) > 0.1


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

    got = head_loss(
        student_RV.log(), teacher.ids_RK[:, 0], identity, teacher=teacher,
        matching=Matching(build("forward_kl"), 1.0, 1.0, vocab),
    )  # fmt: skip
    full = (p_RV * (p_RV.log() - student_RV.log())).sum(1).mean()
    top_RK = student_RV.gather(1, teacher.ids_RK)
    renormalised = (
        (
            teacher.logprobs_RK.softmax(1)
            * (teacher.logprobs_RK.log_softmax(1) - (top_RK / top_RK.sum(1, keepdim=True)).log())
        )
        .sum(1)
        .mean()
    )

    assert abs(renormalised) < 1e-5
    assert 0.4 < got.kd / 8 <= full + 1e-6


def test_a_vanishing_tail_keeps_its_logarithm() -> None:
    """150 nats between the ids and the tail: 1 - sum(q) is 0 in float32, the log-space tail is right to 1e-4."""
    logits_RV = torch.full((1, 50), -150.0)
    logits_RV[0, :3] = torch.tensor([1.0, 0.5, 0.0])
    teacher = TeacherRows(
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[0.5, 0.3, 0.1]]).log(),
        torch.tensor([0.1]).log(),
        torch.tensor([True]),
    )
    identity = nn.Linear(50, 50, bias=False)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(50))
    x = logits_RV.clone().requires_grad_()
    got = head_loss(
        x, torch.tensor([0]), identity, teacher=teacher, matching=Matching(build("forward_kl"), 1.0, 1.0, 50)
    )
    expected = naive(
        logits_RV.double(), torch.tensor([0]),
        TeacherRows(teacher.ids_RK, teacher.logprobs_RK.double(), teacher.tail_R.double(), teacher.present_R),
        "forward_kl", 1.0, 1.0, 50,
    )  # fmt: skip
    assert got.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.autograd.grad(got.loss, x)[0].isfinite().all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_padding_rows_of_the_head_change_no_divergence(case: dict[str, Any], name: str) -> None:
    head = nn.Linear(H, V - 6, bias=False).double()
    padded = nn.Linear(H, V, bias=False).double()
    with torch.no_grad():
        padded.weight.zero_()  # zero-filled rows give the student free mass where nothing slices them off
        padded.weight[: V - 6] = head.weight
    teacher, matching = teacher_of(case["teacher_logits"]), Matching(build(name), 1.0, 1.0, V - 6)
    plain = head_loss(case["hidden"], case["labels"], head, teacher=teacher, matching=matching)
    x = case["hidden"].requires_grad_()
    got = head_loss(x, case["labels"], padded, teacher=teacher, matching=matching)

    torch.testing.assert_close(got.kd, plain.kd, rtol=1e-13, atol=0)
    assert torch.autograd.grad(got.loss, padded.weight)[0][V - 6 :].abs().max() == 0
    beyond = TeacherRows(teacher.ids_RK.clone().fill_(V - 2), teacher.logprobs_RK, teacher.tail_R, teacher.present_R)
    with pytest.raises(ValueError, match="teacher id"):
        head_loss(x, case["labels"], padded, teacher=beyond, matching=matching)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_absent_rows_and_empty_teacher_mass_leave_all_gradients_finite(name: str, temperature: float) -> None:
    """Rows with NaN entries that are not present, and teacher entries of probability zero, under anomaly detection."""
    torch.manual_seed(0)
    hidden_RH = torch.randn(6, H, requires_grad=True)
    head = nn.Linear(H, V)
    ids_RK = torch.arange(4).repeat(6, 1)
    logprobs_RK = torch.tensor([0.6, 0.4, 1e-30, 0.0]).log().repeat(6, 1)
    tail_R = torch.tensor([-math.inf] * 3 + [math.nan] * 3)
    logprobs_RK[3:] = math.nan
    teacher = TeacherRows(ids_RK, logprobs_RK, tail_R, torch.tensor([True] * 3 + [False] * 3))
    matching = Matching(build(name), 0.5, temperature, V)
    with torch.autograd.detect_anomaly(check_nan=True):
        got = head_loss(hidden_RH, torch.arange(6), head, teacher=teacher, matching=matching)
        got.loss.backward()
    assert all(value.isfinite() for value in got)
    assert hidden_RH.grad is not None and hidden_RH.grad.isfinite().all() and head.weight.grad.isfinite().all()


def test_no_rows_give_a_zero_that_is_connected() -> None:
    hidden_RH = torch.zeros(0, H, requires_grad=True)
    head = nn.Linear(H, V)
    teacher = TeacherRows(
        torch.zeros(0, K, dtype=torch.long), torch.zeros(0, K), torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    )
    loss = head_loss(
        hidden_RH,
        torch.zeros(0, dtype=torch.long),
        head,
        teacher=teacher,
        matching=Matching(build("forward_kl"), 0.5, 1.0, V),
    ).loss
    loss.backward()
    assert loss.item() == 0
    assert head.weight.grad is not None and head.weight.grad.abs().max() == 0


def test_nothing_is_differentiated_for_a_frozen_head_or_without_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    import students.head_loss as module

    def refuse(*_: Any) -> None:
        raise AssertionError("a gradient of the head's weight was made")

    monkeypatch.setattr(module, "_add_outer", refuse)
    hidden_RH, head = torch.randn(4, H, requires_grad=True), nn.Linear(H, V).requires_grad_(False)
    head_loss(hidden_RH, torch.arange(4), head).loss.backward()
    with torch.no_grad():
        loss = head_loss(hidden_RH, torch.arange(4), head.requires_grad_(True)).loss
    assert not loss.requires_grad
    with pytest.raises(AssertionError):  # the guard itself works
        head_loss(hidden_RH, torch.arange(4), head)


def test_peak_memory_does_not_grow_with_the_rows() -> None:
    """The largest tensor made inside stays the tile: 4 times the rows, the same tile."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for item in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(item, Tensor):
                    self.size = max(self.size, item.numel())
            return out

    sizes = []
    for rows in (256, 1024):
        head = nn.Linear(H, 5000, bias=False).requires_grad_(False)
        hidden_RH = torch.randn(rows, H, requires_grad=True)
        with Largest() as largest:
            head_loss(hidden_RH, torch.zeros(rows, dtype=torch.long), head, tile_bytes=5000 * 4 * 32).loss.backward()
        sizes.append(largest.size)
    assert sizes[0] == sizes[1] == 5000 * 32


def test_divergences_agree_with_a_hand_worked_example() -> None:
    """P = (1/2, 1/4, 1/4), Q = (1/4, 1/4, 1/2), in nats."""
    teacher_RB = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    student_RB = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
    ln2 = math.log(2)
    assert build("forward_kl")(teacher_RB, student_RB)[0].item() == pytest.approx(0.5 * ln2 - 0.25 * ln2)
    assert build("reverse_kl")(teacher_RB, student_RB)[0].item() == pytest.approx(0.5 * ln2 - 0.25 * ln2)
    expected = 0.5 * math.log(4 / 3) - 0.25 * math.log(3 / 2)
    assert build("jsd")(teacher_RB, student_RB)[0].item() == pytest.approx(expected)
    # The direction: mass where the teacher has (almost) none costs reverse KL much and forward KL little.
    spread_RB = torch.tensor([[0.5, 0.499, 0.001]], dtype=torch.float64).log()
    other_RB = torch.tensor([[0.4, 0.4, 0.2]], dtype=torch.float64).log()
    assert build("reverse_kl")(spread_RB, other_RB)[0] > 3 * build("forward_kl")(spread_RB, other_RB)[0]


def test_jsd_tends_to_the_two_kls() -> None:
    torch.manual_seed(0)
    teacher_RB, student_RB = torch.randn(2, 3, 6, dtype=torch.float64).log_softmax(2)
    for beta, name in ((1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")):
        value_R = build("jsd", beta=beta)(teacher_RB, student_RB)[0] / min(beta, 1 - beta)
        torch.testing.assert_close(value_R, build(name)(teacher_RB, student_RB)[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "beta"), [*((n, None) for n in DIVERGENCES), ("jsd", 0.1)])
def test_the_derivative_of_each_divergence_is_its_values(name: str, beta: float | None) -> None:
    torch.manual_seed(0)
    divergence = build(name, **({} if beta is None else {"beta": beta}))
    teacher_RB = torch.randn(4, 6, dtype=torch.float64).log_softmax(1)
    logits_RB = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    student_RB = logits_RB.log_softmax(1)
    value_R, g_RB = divergence(teacher_RB, student_RB)
    (by_autograd_RB,) = torch.autograd.grad(value_R.sum(), logits_RB)
    by_hand_RB = g_RB - student_RB.exp() * g_RB.sum(1, keepdim=True)
    torch.testing.assert_close(by_hand_RB, by_autograd_RB, rtol=1e-10, atol=1e-14)


def test_shapes_that_do_not_fit_are_refused() -> None:
    head, hidden_RH = nn.Linear(H, V), torch.randn(3, H)
    with pytest.raises(ValueError, match="3 hidden rows, 2 labels"):
        head_loss(hidden_RH, torch.arange(2), head)
    with pytest.raises(ValueError, match="come together"):
        head_loss(hidden_RH, torch.arange(3), head, matching=Matching(build("jsd"), 0.5, 1.0, V))


def test_every_row_splits_alike() -> None:
    """Chunked equals unchunked, for any tile size, in value and gradient (fp32)."""
    torch.manual_seed(0)
    head, hidden_RH, labels_R = (
        nn.Linear(H, V, bias=False),
        torch.randn(R, H, requires_grad=True),
        torch.randint(0, V, (R,)),
    )
    teacher, matching = teacher_of(torch.randn(R, V) * 2, dtype=torch.float32), Matching(build("jsd"), 0.5, 1.0, V)
    results: list[tuple[HeadLoss, tuple[Tensor, ...]]] = []
    for tile_rows in (1, 5, 36, 1000):
        got = head_loss(hidden_RH, labels_R, head, teacher=teacher, matching=matching, tile_bytes=tile_rows * V * 4)
        results.append((got, torch.autograd.grad(got.loss, [hidden_RH, head.weight])))
    for (a, grads_a), (b, grads_b) in itertools.pairwise(results):
        torch.testing.assert_close(a.loss, b.loss, rtol=1e-6, atol=0)
        for mine, theirs in zip(grads_a, grads_b, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
