"""What the network is trained to: focal classification and distance-IoU of the positive points."""

import torch
import torch.nn.functional as F
from torch import Tensor

from groundnlq.config import TrainConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import assign_targets


class Criterion:
    """Sigmoid focal loss over all valid points plus distance-IoU over the positive ones.

    Both sums are to be divided by `normaliser`, a running count of positives `n <- 0.9 n + 0.1 max(#positives, 1)`,
    updated before the division and in training only. It belongs to the saved state of a run: one that forgot it would
    train with another loss scale.
    """

    def __init__(self, config: TrainConfig, device: torch.device | str = "cpu"):
        self.center_radius, self.label_smoothing = config.center_radius, config.label_smoothing
        self.weights = {"classification": 1.0, "regression": config.regression_weight}
        # float64: the count of a long run must not depend on how its sum was rounded
        self.normaliser = torch.tensor(config.initial_loss_normaliser, dtype=torch.float64, device=device)

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Undivided sums of the two loss terms, and the number of positives of this batch (float64)."""
        # (Q, N) and (Q, N, 2)
        labels, distances = assign_targets(outputs.points, batch.moments_grid, self.center_radius)
        is_positive = (labels > 0) & outputs.mask
        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        focal = sigmoid_focal_loss(outputs.logits.float(), smoothed)
        classification = (focal * outputs.mask).sum()
        # To pick the positive points would wait for a GPU. The others get equal distances: no loss and no gradient.
        pair = (torch.where(is_positive[..., None], x, 1.0) for x in (outputs.offsets.float(), distances))
        regression = distance_iou_loss(*pair).sum()
        return {"classification": classification, "regression": regression}, is_positive.sum().double()

    def update(self, num_positives: Tensor) -> None:
        """Move the running count by the positives of one step (of all processes, to count like one)."""
        self.normaliser.mul_(0.9).add_(num_positives.clamp(min=1), alpha=0.1)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017) per element; targets in [0, 1] may be soft."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_target = p * targets + (1 - p) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * cross_entropy * (1 - p_target) ** gamma


def distance_iou_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Distance-IoU loss (Zheng et al. 2020) in one dimension, (...).

    Args:
        predicted, true: (..., 2) distances from a common point to start and end, >= 0.
    """
    left, right = predicted.unbind(-1)
    true_left, true_right = true.unbind(-1)
    inter = torch.minimum(left, true_left) + torch.minimum(right, true_right)
    union = left + right + true_left + true_right - inter
    enclosing = torch.maximum(left, true_left) + torch.maximum(right, true_right)
    rho = (right - left - true_right + true_left) / 2
    return 1 - inter / union.clamp(min=1e-8) + (rho / enclosing.clamp(min=1e-8)) ** 2
