"""What a user decides about training; the recipe's section `train` has the same names."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Sandwich-rule training of a supernet.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step, over all workers.
        learning_rate: peak rate of SGD with Nesterov momentum .9; cosine to zero after a linear warm-up.
        weight_decay: on convolution and linear weights only.
        label_smoothing: of the label loss.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        random_subnets: subnets drawn at random each step, beside the largest and the smallest.
        distillation: share of a smaller subnet's loss that comes from the largest one's probabilities, 0 ... 1.
        gradient_clip: largest norm of the summed gradient.
        seed: everything random is derived from it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    warmup_epochs: float
    random_subnets: int
    distillation: float
    gradient_clip: float
    seed: int
