"""Losses against labels and against a larger network; computed in float32, whatever the network computes in."""

import torch
from torch.nn import functional


def label_loss(logits_NC: torch.Tensor, labels_N: torch.Tensor, *, smoothing: float) -> torch.Tensor:
    """Cross entropy to smoothed labels."""
    return functional.cross_entropy(logits_NC.float(), labels_N, label_smoothing=smoothing)


def distillation_loss(logits_NC: torch.Tensor, teacher_logits_NC: torch.Tensor) -> torch.Tensor:
    """Cross entropy to the teacher's probabilities, which carry no gradient (Hinton et al., arXiv 1503.02531)."""
    return functional.cross_entropy(logits_NC.float(), teacher_logits_NC.detach().float().softmax(dim=1))


def student_loss(
    logits_NC: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    teacher_logits_NC: torch.Tensor,
    distillation: float,
    smoothing: float,
) -> torch.Tensor:
    """`distillation` parts of the teacher's loss and the rest of the labels' loss: sandwich rule and refinement."""
    loss = distillation * distillation_loss(logits_NC, teacher_logits_NC)
    if distillation < 1.0:
        loss = loss + (1.0 - distillation) * label_loss(logits_NC, labels_N, smoothing=smoothing)
    return loss


def progressive_loss(
    logits_NC: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    teacher_logits_NC: torch.Tensor,
    distillation: float,
    smoothing: float,
) -> torch.Tensor:
    """The labels' loss and, on top of it, `distillation` times the teacher's: progressive shrinking (1.0 published)."""
    loss = label_loss(logits_NC, labels_N, smoothing=smoothing)
    return loss + distillation * distillation_loss(logits_NC, teacher_logits_NC) if distillation else loss
