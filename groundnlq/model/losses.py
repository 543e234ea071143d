"""What the network is trained to: focal classification and distance-IoU of the positive points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.config import TrainConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import assign_targets


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch; the loss terms are divided by the running count of positives."""

    classification: Tensor
    regression: Tensor
    total: Tensor
    num_positives: Tensor


class Criterion(nn.Module):
    """Sigmoid focal loss over all valid points plus distance-IoU over the positive ones.

    Both sums are divided by a running count of positives, `n <- 0.9 n + 0.1 max(#positives, 1)`, updated
    before the division and in training mode only. It is part of the saved state: a resumed run that forgot
    it would train with another loss scale.

    Args:
        center_radius: positive points lie within this many strides of the moment's centre.
    """

    normaliser: Tensor  # the running count of positive points

    def __init__(
        self, center_radius: float, label_smoothing: float, initial_loss_normaliser: float, regression_weight: float
    ):
        super().__init__()
        self.center_radius, self.label_smoothing = center_radius, label_smoothing
        self.regression_weight = regression_weight
        # float64: the count of a long run must not depend on how its sum was rounded
        self.register_buffer("normaliser", torch.tensor(initial_loss_normaliser, dtype=torch.float64))

    @classmethod
    def from_config(cls, config: TrainConfig) -> Criterion:
        return cls(
            config.center_radius, config.label_smoothing, config.initial_loss_normaliser, config.regression_weight
        )

    def forward(self, outputs: Outputs, batch: Batch) -> Losses:
        classification, regression, num_positives = self.sums(outputs, batch)
        if self.training:
            self.count(num_positives)
        count = self.normaliser.float()
        classification, regression = classification / count, regression / count
        total = classification + self.regression_weight * regression
        return Losses(classification, regression, total, num_positives)

    def count(self, num_positives: Tensor) -> None:
        """Move the running count by the positives of one step (of all processes, to count like one)."""
        self.normaliser.mul_(0.9).add_(num_positives.clamp(min=1), alpha=0.1)

    def sums(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Undivided classification and regression losses and the number of positives of this batch."""
        targets = [assign_targets(outputs.points, m, self.center_radius) for m in batch.moments_grid]
        labels = torch.stack([label for label, _ in targets])  # (Q, N)
        distances = torch.stack([distance for _, distance in targets])  # (Q, N, 2)
        is_positive = (labels > 0) & outputs.mask
        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        focal = sigmoid_focal_loss(outputs.logits.float(), smoothed)
        classification = (focal * outputs.mask).sum()
        # with no positive point this is an empty sum: zero, but connected to the graph
        regression = distance_iou_loss(outputs.offsets[is_positive].float(), distances[is_positive]).sum()
        return classification, regression, is_positive.sum().double()


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017) per element; targets in [0, 1] may be soft."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_target = p * targets + (1 - p) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * cross_entropy * (1 - p_target) ** gamma


def distance_iou_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Distance-IoU loss (Zheng et al. 2020) in one dimension, per row.

    Args:
        predicted, true: (N, 2) distances from a common point to start and end, >= 0.
    """
    left, right = predicted.unbind(-1)
    true_left, true_right = true.unbind(-1)
    inter = torch.minimum(left, true_left) + torch.minimum(right, true_right)
    union = left + right + true_left + true_right - inter
    enclosing = torch.maximum(left, true_left) + torch.maximum(right, true_right)
    rho = (right - left - true_right + true_left) / 2
    return 1 - inter / union.clamp(min=1e-8) + (rho / enclosing.clamp(min=1e-8)) ** 2
