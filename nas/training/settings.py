"""What a user decides about training; the recipe's section `train` has the same names.

No torch here: recipes are checked without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSettings:
    """One phase of progressive shrinking, said by hand.

    Attributes:
        open: kind of choice -> how many of its largest values are in use from this phase on; kinds that are not named
            stay as they were, `{}` opens nothing. Or the name of a published phase, for example "depth 1".
        epochs: length.
        learning_rate: peak rate.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        subnets: subnets a step.
    """

    open: Mapping[str, int] | str
    epochs: int
    learning_rate: float
    warmup_epochs: float = 0.0
    subnets: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Training of a supernet.

    Attributes:
        epochs: passes over the training split, all phases together.
        batch_size: images a step, over all workers.
        learning_rate: peak rate; cosine to zero after a linear warm-up. Phases of progressive shrinking have theirs
            relative to it.
        weight_decay: on convolution and linear weights only.
        label_smoothing: of the label loss.
        warmup_epochs: epochs of linear warm-up (progressive: of the teacher); may be a fraction.
        random_subnets: sandwich rule: subnets drawn at random each step, beside the largest and the smallest.
        distillation: sandwich rule: share of a smaller subnet's loss that comes from the largest one's probabilities,
            0 ... 1; progressive: weight of the teacher's loss beside the label loss, which has 1.
        gradient_clip: largest norm of the summed gradient.
        seed: everything random is derived from it.
        method: "sandwich" (BigNAS) or "progressive" (progressive shrinking, Once-for-All).
        phases: progressive only: the phases by hand instead of the published ones.
        precision: "fp32", "bf16" (mixed), or "auto": bf16 where the GPU or the CPU has instructions for it.
        ema_decay: decay of the exponential moving average of the weights that is evaluated, or None: no average.
        validation_images: images of the search split that judge the supernet after every epoch; 0 for no judging.
        start_sha256: checksum of the weights that training starts from, or None: fresh ones.
        optimizer: "sgd" or "adamw", see `nas.training.optimizer.make_optimizer`; AdamW learns with much smaller rates
            (about .003) and larger weight decay.
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
    method: str = "sandwich"
    phases: tuple[PhaseSettings, ...] = ()
    precision: str = "fp32"
    ema_decay: float | None = None
    validation_images: int = 0
    start_sha256: str | None = None
    optimizer: OptimizerName = "sgd"
