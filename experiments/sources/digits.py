"""The digits that come with scikit-learn: 1,797 images of 8 x 8 pixels, values 0 ... 16."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.downloads import Progress
from experiments.sources.source import DataSource, Part, Source

if TYPE_CHECKING:
    from experiments.recipe_settings import DataSettings


def _read(settings: "DataSettings", on_progress: Progress | None) -> Source:
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    bunch = load_digits()
    part = Part(
        name="digits", inputs=bunch.images.astype(np.uint8)[:, None], labels_N=bunch.target.astype(np.int64)
    )  # fmt: skip
    return Source(class_names=tuple("0123456789"), pool=part, official=None, augmentation="shift")


SOURCE = DataSource(
    name="digits", read=_read, locate=lambda settings: "comes with scikit-learn", has_official=False
)  # fmt: skip
