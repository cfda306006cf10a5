"""What would it cost, without running it: latency models fitted to a few measurements, with honest intervals."""

from predictors.errors import PredictorError
from predictors.latency import LatencyPredictor, fit_latency_predictor, load_predictor
from predictors.prediction import Prediction
from predictors.predictor import CostPredictor
from predictors.scores import Scores, score

__all__ = [
    "CostPredictor",
    "LatencyPredictor",
    "Prediction",
    "PredictorError",
    "Scores",
    "fit_latency_predictor",
    "load_predictor",
    "score",
]
