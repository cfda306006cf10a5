import math

import numpy as np
import pytest

from predictors import PredictorError, score


def test_scores_of_a_small_example() -> None:
    scores = score([1.0, 2.08, 3.0, 5.0], [1.0, 2.0, 3.0, 4.0])
    assert scores.mape_percent == pytest.approx((0 + 4 + 0 + 25) / 4)
    assert scores.within_5_percent == 0.75
    assert scores.within_10_percent == 0.75
    assert scores.spearman == pytest.approx(1.0)
    assert scores.kendall == pytest.approx(1.0)
    assert scores.num == 4


def test_a_reversed_order_has_correlation_minus_one() -> None:
    scores = score([3.0, 2.0, 1.0], [1.0, 2.0, 3.0])
    assert scores.spearman == pytest.approx(-1.0)
    assert scores.kendall == pytest.approx(-1.0)


def test_constant_predictions_have_no_correlation() -> None:
    scores = score([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])
    assert math.isnan(scores.spearman)
    assert math.isnan(scores.kendall)


@pytest.mark.parametrize(
    ("predicted", "measured"),
    [
        ([1.0], [1.0]),
        ([1.0, 2.0], [1.0, 2.0, 3.0]),
        ([[1.0, 2.0]], [[1.0, 2.0]]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 0.0]),
        ([1.0, 2.0], [1.0, np.inf]),
    ],
)
def test_what_cannot_be_compared_is_refused(predicted: list[float], measured: list[float]) -> None:
    with pytest.raises(PredictorError):
        score(predicted, measured)
