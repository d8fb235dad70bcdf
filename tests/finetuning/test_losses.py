"""The loss of the classes against plain formulas and torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from gtacli.finetuning.losses import ClassLoss

gammas = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])
seeds = st.integers(0, 10**6)


def draw(seed: int, n: int = 5, k: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, generator=generator)
    labels = torch.rand(n, k, generator=generator).round()
    return logits, labels, torch.randint(k, (n,), generator=generator)


@given(gammas, seeds)
def test_focal_loss_of_any_number_of_labels_is_torchvisions(gamma: float, seed: int) -> None:
    logits, labels, _ = draw(seed)
    ours = ClassLoss(multi_label=True, gamma=gamma)(logits, labels)
    theirs = sigmoid_focal_loss(logits, labels, alpha=-1, gamma=gamma, reduction="none")
    assert ours.item() == pytest.approx(theirs.sum(1).mean().item(), rel=1e-4, abs=1e-6)


@given(seeds, st.sampled_from([0.0, 0.1]))
def test_without_gamma_it_is_binary_cross_entropy(seed: int, smoothing: float) -> None:
    logits, labels, _ = draw(seed)
    weights = torch.tensor([0.5, 1.0, 3.0, 20.0])
    ours = ClassLoss(True, smoothing, weights)(logits, labels)
    soft = labels * (1 - smoothing) + smoothing / 2
    theirs = F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights, reduction="none")
    assert ours.item() == pytest.approx(theirs.sum(1).mean().item(), rel=1e-5)


@given(gammas, seeds, st.booleans(), st.sampled_from([0.0, 0.1]))
def test_focal_loss_of_one_class(gamma: float, seed: int, mixed: bool, smoothing: float) -> None:
    logits, _, classes = draw(seed)
    weights = torch.tensor([0.5, 1.0, 3.0, 20.0])
    one_hot = F.one_hot(classes, 4).float()
    goal = 0.3 * one_hot + 0.7 * one_hot.flip(0) if mixed else classes
    ours = ClassLoss(False, smoothing, weights, gamma)(logits, goal)
    labels = (goal if mixed else one_hot).double().numpy()
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    own = labels * weights.double().numpy()  # of each class of a mixed image
    soft = own * (1 - smoothing) + own.sum(1, keepdims=True) * smoothing / 4
    each = -(soft * (1 - p) ** gamma * np.log(p)).sum(1)
    assert ours.item() == pytest.approx(each.mean(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("size", [60.0, 200.0, 3e4])
def test_gradients_of_sure_predictions_are_finite(
    multi_label: bool, gamma: float, size: float
) -> None:
    logits = torch.tensor([[size, -size, 0.0], [-size, size, size]], requires_grad=True)
    goal = torch.eye(3)[:2] if multi_label else torch.tensor([0, 0])
    loss = ClassLoss(multi_label, gamma=gamma)(logits, goal)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
