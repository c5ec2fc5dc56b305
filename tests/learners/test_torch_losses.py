"""Losses against numbers by hand, definitions in plain loops and statsmodels; what they are in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.duration.hazard_regression import PHReg

from aimer2.core.study import Target, Training
from aimer2.learners.torch_losses import cox, discrete_time, objective, survival

Array = NDArray[Any]


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values, np.float64))


def plain_cox(eta: Array, time: Array, event: Array, ties: str) -> float:
    """By the formula, time by time."""
    total = 0.0
    for one in np.unique(time[event == 1]):
        dead = (time == one) & (event == 1)
        at_risk, among = np.exp(eta[time >= one]).sum(), np.exp(eta[dead]).sum()
        count = int(dead.sum())
        for number in range(count):
            total += np.log(at_risk - (number / count * among if ties == "efron" else 0.0))
        total -= eta[dead].sum()
    return total


def test_the_gradient_of_cox_by_hand() -> None:
    """Events at times 1 (patient a) and 2 (b), c censored at 3; η = ln 1, ln 2, ln 3.

    Loss = ln(6/1) + ln(5/2). By η: of a: 1/6 − 1; of b: 2/6 + 2/5 − 1; of c: 3/6 + 3/5.
    """
    eta = tensor(np.log([1.0, 2, 3])).requires_grad_()
    loss = cox(eta, tensor([[1, 1], [2, 1], [3, 0]]), "sum", ties="breslow")
    loss.backward()
    assert loss.item() == pytest.approx(np.log(15.0))
    np.testing.assert_allclose(eta.grad, [1 / 6 - 1, 2 / 6 + 2 / 5 - 1, 3 / 6 + 3 / 5])


def test_the_gradient_of_two_tied_events_by_hand() -> None:
    """Events of a and b at time 1, c later; exp η = 1, 2, 3.

    Breslow: 2·ln 6 − ln 2. Efron: ln 6 + ln(6 − 3/2) − ln 2; by η of a: 1/6 + (1 − 1/2)/4.5 − 1.
    """
    targets = tensor([[1, 1], [1, 1], [3, 0]])
    eta = tensor(np.log([1.0, 2, 3])).requires_grad_()
    assert cox(eta, targets, "sum", ties="breslow").item() == pytest.approx(2 * np.log(6) - np.log(2))
    loss = cox(eta, targets, "sum", ties="efron")
    loss.backward()
    assert loss.item() == pytest.approx(np.log(6) + np.log(4.5) - np.log(2))
    np.testing.assert_allclose(eta.grad, [1 / 6 + 0.5 / 4.5 - 1, 2 / 6 + 1 / 4.5 - 1, 3 / 6 + 3 / 4.5])


@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from(["breslow", "efron"]))
def test_cox_is_its_formula_with_any_ties_in_any_order(seed: int, rows: int, ties: str) -> None:
    rng = np.random.default_rng(seed)
    eta, time, event = rng.normal(0, 3, rows), rng.integers(0, 6, rows), rng.integers(0, 2, rows)
    found = cox(tensor(eta), tensor(np.stack((time, event), axis=1)), "none", ties=ties)
    assert found.shape == (rows,)
    assert found.sum().item() == pytest.approx(plain_cox(eta, time, event, ties), abs=1e-9)
    assert not found[torch.from_numpy(event == 0)].any()


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_cox_at_zero_coefficients_is_the_likelihood_of_statsmodels(ties: str) -> None:
    rng = np.random.default_rng(1)
    time, event, x = rng.integers(1, 15, 80).astype(float), rng.integers(0, 2, 80), rng.normal(size=(80, 2))
    oracle = PHReg(time, x, status=event, ties=ties)
    beta = np.array([0.3, -0.7])
    eta = tensor(x @ beta).requires_grad_()
    loss = cox(eta, tensor(np.stack((time, event), axis=1)), "sum", ties=ties)
    loss.backward()
    assert eta.grad is not None
    assert loss.item() == pytest.approx(-oracle.loglike(beta))
    np.testing.assert_allclose(x.T @ eta.grad.numpy(), -oracle.score(beta), atol=1e-9)


def test_cox_of_far_apart_risks_is_finite_and_so_is_its_gradient() -> None:
    eta = torch.tensor([80.0, -80.0, 0.0, -90.0], requires_grad=True)
    loss = cox(eta, torch.tensor([[1.0, 1], [1, 1], [2, 1], [3, 0]]), "sum", ties="efron")
    loss.backward()
    assert torch.isfinite(loss)
    assert eta.grad is not None and torch.isfinite(eta.grad).all()


def test_a_batch_without_an_event_pulls_nowhere() -> None:
    eta = torch.zeros(3, requires_grad=True)
    loss = cox(eta, torch.tensor([[1.0, 0], [2, 0], [2, 0]]), "mean", ties="efron")
    loss.backward()
    assert loss.item() == 0
    assert eta.grad is not None and not eta.grad.any()


def test_discrete_time_by_hand() -> None:
    """Intervals [0, 1), [1, 2), [2, 4); all hazards 1/2, so each interval that counts gives ln 2.

    An event at 1 is in the second interval; censored at 1.4 only the first was lived through, at 1.5 half of the second; an event at 5
    lies after the last end, so all three were.
    """
    targets = tensor([[1, 1], [1.4, 0], [1.5, 0], [5, 1], [0.4, 0], [0, 1]])
    losses = discrete_time(torch.zeros(6, 3, dtype=torch.float64), targets, "none", ends=(1.0, 2.0, 4.0))
    np.testing.assert_allclose(losses / np.log(2), [2, 1, 2, 3, 0, 1])


def test_discrete_time_tells_the_event_from_survival() -> None:
    outputs = tensor([[np.log(0.2 / 0.8), np.log(0.4 / 0.6)]])
    event = discrete_time(outputs, tensor([[1.5, 1]]), "sum", ends=(1.0, 2.0)).item()
    alive = discrete_time(outputs, tensor([[2.5, 0]]), "sum", ends=(1.0, 2.0)).item()
    assert event == pytest.approx(-np.log(0.8 * 0.4))
    assert alive == pytest.approx(-np.log(0.8 * 0.6))
    np.testing.assert_allclose(survival(outputs), [[0.8, 0.48]])


def test_class_weights_multiply_the_loss_of_a_row_and_not_its_share() -> None:
    outputs, targets = tensor([0.5, -1.0, 2.0]), tensor([1, 0, 1])
    plain = objective(Target(name="y"), Training()).loss(outputs, targets, "none")
    weighed = objective(Target(name="y"), Training(class_weights=(2.0, 5.0))).loss
    np.testing.assert_allclose(weighed(outputs, targets, "none"), plain * tensor([5, 2, 5]))
    assert weighed(outputs, targets, "mean").item() == pytest.approx((plain * tensor([5, 2, 5])).mean().item())
    kind: dict[str, Any] = {"name": "y", "kind": "multiclass", "categories": ("a", "b", "c")}
    outputs, targets = tensor(np.random.default_rng(0).normal(size=(4, 3))), torch.tensor([0, 1, 2, 2])
    plain = objective(Target(**kind), Training()).loss(outputs, targets, "none")
    weighed = objective(Target(**kind), Training(class_weights=(1.0, 2.0, 4.0))).loss
    assert weighed(outputs, targets, "mean").item() == pytest.approx((plain * tensor([1, 2, 4, 4])).mean().item())


def test_the_weight_of_a_label_is_of_its_presence() -> None:
    target, outputs = Target(name="y", kind="multilabel", labels=("a", "b")), torch.zeros(1, 2, dtype=torch.float64)
    loss = objective(target, Training(class_weights=(3.0, 7.0))).loss
    found = [loss(outputs, tensor([labels]), "sum").item() / np.log(2) for labels in ([0, 0], [1, 0], [0, 1], [1, 1])]
    np.testing.assert_allclose(found, [1, 2, 4, 5])


def test_the_gradient_of_an_order_learnt_already_is_not_what_was_rounded_off() -> None:
    """Neighbours lie 20 apart: of events in the order of the risks only the first and the last are pulled, by 1/(1 + e²⁰) ≈ 2e-9. Single precision
    would leave 1e-7, which Adam divides by its own size."""
    outputs = torch.tensor([60.0, 40.0, 20.0, 0.0], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 0.0]])
    (gradient,) = torch.autograd.grad(cox(outputs, targets, "sum", ties="breslow"), outputs)
    small = 1 / (1 + np.exp(20))
    assert gradient.numpy() == pytest.approx(np.array([-small, 0, 0, small]), abs=1e-14)
