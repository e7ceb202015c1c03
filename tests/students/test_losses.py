"""Every divergence by itself: worked by hand, its ends, and its derivative."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from students.head_loss import Matching, head_loss
from tests.students.naive import DIVERGENCES, build, divergence, live_of, teacher_of


def test_divergences_agree_with_a_hand_worked_example() -> None:
    """P = (1/2, 1/4, 1/4), Q = (1/4, 1/4, 1/2), in nats: the example of docs/losses.md."""
    teacher_RB = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    student_RB = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
    ln2 = math.log(2)
    assert build("forward_kl")(teacher_RB, student_RB)[0].item() == pytest.approx(0.25 * ln2)
    assert build("reverse_kl")(teacher_RB, student_RB)[0].item() == pytest.approx(0.25 * ln2)
    expected = 0.5 * math.log(4 / 3) - 0.25 * math.log(3 / 2)
    assert build("jsd")(teacher_RB, student_RB)[0].item() == pytest.approx(expected)


def test_directions_and_beta_agree_with_the_example_of_the_docs() -> None:
    """P = (0.5, 0.499, 0.001), Q = (0.4, 0.4, 0.2): the student says often what the teacher hardly ever says."""
    teacher_RB = torch.tensor([[0.5, 0.499, 0.001]], dtype=torch.float64).log()
    student_RB = torch.tensor([[0.4, 0.4, 0.2]], dtype=torch.float64).log()
    documented = {"forward_kl": 0.2166, "reverse_kl": 0.8819}
    for name, value in documented.items():
        assert build(name)(teacher_RB, student_RB)[0].item() == pytest.approx(value, abs=5e-5)
    betas = {0.1: 0.0204, 0.5: 0.0720, 0.9: 0.0444}  # near neither end a KL, at both ends nothing
    for beta, value in betas.items():
        assert build("jsd", beta=beta)(teacher_RB, student_RB)[0].item() == pytest.approx(value, abs=5e-5)


def test_torch_kl_div_takes_the_student_first_and_gives_the_forward_kl() -> None:
    """`kl_div(input, target)` is KL(target || input): with the arguments swapped it is another loss."""
    torch.manual_seed(0)
    teacher_RB, student_RB = torch.randn(2, 4, 6, dtype=torch.float64).log_softmax(2)
    forward = functional.kl_div(student_RB, teacher_RB, reduction="none", log_target=True).sum(1)
    reverse = functional.kl_div(teacher_RB, student_RB, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(build("forward_kl")(teacher_RB, student_RB)[0], forward)
    torch.testing.assert_close(build("reverse_kl")(teacher_RB, student_RB)[0], reverse)
    assert (forward - reverse).abs().min() > 1e-3


def test_jsd_tends_to_the_two_kls() -> None:
    torch.manual_seed(0)
    teacher_RB, student_RB = torch.randn(2, 3, 6, dtype=torch.float64).log_softmax(2)
    for beta, name in ((1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")):
        value_R = build("jsd", beta=beta)(teacher_RB, student_RB)[0] / min(beta, 1 - beta)
        torch.testing.assert_close(value_R, build(name)(teacher_RB, student_RB)[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_is_its_definition_and_never_negative(name: str) -> None:
    torch.manual_seed(0)
    teacher_RB, student_RB = (torch.randn(2, 200, 6, dtype=torch.float64) * 3).log_softmax(2)
    value_R, _ = build(name)(teacher_RB, student_RB)
    torch.testing.assert_close(value_R, divergence(name, teacher_RB.exp(), student_RB.exp()), rtol=1e-10, atol=1e-13)
    assert value_R.min() > 0
    same_R, _ = build(name)(teacher_RB, teacher_RB)
    assert same_R.abs().max() < 1e-15


@pytest.mark.parametrize(("name", "beta"), [*((n, None) for n in DIVERGENCES), ("jsd", 0.1), ("jsd", 0.9)])
def test_the_derivative_of_each_divergence_is_its_values(name: str, beta: float | None) -> None:
    torch.manual_seed(0)
    distance = build(name, **({} if beta is None else {"beta": beta}))
    teacher_RB = torch.randn(4, 6, dtype=torch.float64).log_softmax(1)
    logits_RB = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    student_RB = logits_RB.log_softmax(1)
    value_R, g_RB = distance(teacher_RB, student_RB)
    (by_autograd_RB,) = torch.autograd.grad(value_R.sum(), logits_RB)
    by_hand_RB = g_RB - student_RB.exp() * g_RB.sum(1, keepdim=True)
    torch.testing.assert_close(by_hand_RB, by_autograd_RB, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_leaves_its_arguments_alone(name: str) -> None:
    """The head's loss reads them again afterwards."""
    torch.manual_seed(0)
    given = torch.randn(2, 3, 6).log_softmax(2)
    before = given.clone()
    build(name)(*given)
    assert torch.equal(given, before)


def test_the_divergence_that_the_docs_write_out_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module of one's own, by its dotted path, over buckets and over the full vocabulary."""
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    block = re.search(
        r"^    class Config\(LossSettings\):.*?^    .*return total_variation$", page, re.DOTALL | re.MULTILINE
    )
    assert block is not None
    package = tmp_path / "my_losses"
    package.mkdir()
    (package / "__init__.py").touch()
    about = "from students.divergence import Divergence, LossSettings\n\n"
    (package / "total_variation.py").write_text(about + textwrap.dedent(block[0]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    matching = Matching(build("my_losses.total_variation"), 1.0, 1.0, 40)
    torch.manual_seed(0)
    head = nn.Linear(6, 40, dtype=torch.float64)
    hidden_RH, labels_R = torch.randn(9, 6, dtype=torch.float64, requires_grad=True), torch.zeros(9, dtype=torch.long)
    teacher_RV = torch.randn(9, 40, dtype=torch.float64)
    got = head_loss(hidden_RH, labels_R, head, teacher=live_of(teacher_RV), matching=matching).loss
    expected = 0.5 * (head(hidden_RH).softmax(1) - teacher_RV.softmax(1)).abs().sum()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, hidden_RH), torch.autograd.grad(expected, hidden_RH))
    by_buckets = head_loss(hidden_RH, labels_R, head, teacher=teacher_of(teacher_RV), matching=matching).loss
    assert 0 < by_buckets <= got
