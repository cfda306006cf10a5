import numpy as np
import pytest

from predictors import Prediction, PredictorError


def make(*, lower: list[float], mean: list[float], upper: list[float]) -> Prediction:
    return Prediction(
        mean=np.array(mean),
        lower=np.array(lower),
        upper=np.array(upper),
        level=0.9,
        in_range=np.ones(len(mean), dtype=np.bool_),
    )


def test_relative_width_is_the_full_width_over_the_mean() -> None:
    prediction = make(lower=[0.9, 1.0], mean=[1.0, 2.0], upper=[1.2, 2.0])
    np.testing.assert_allclose(prediction.relative_width, [0.3, 0.5])
    assert len(prediction) == 2


@pytest.mark.parametrize(
    ("lower", "mean", "upper"),
    [
        ([1.1], [1.0], [1.2]),
        ([0.9], [1.0], [0.95]),
        ([0.9], [1.0], [np.inf]),
        ([np.nan], [1.0], [1.1]),
        ([0.9, 0.9], [1.0], [1.1]),
    ],
)
def test_disordered_infinite_or_ragged_values_are_refused(
    lower: list[float], mean: list[float], upper: list[float]
) -> None:
    with pytest.raises(PredictorError, match="not a prediction"):
        make(lower=lower, mean=mean, upper=upper)
