"""What would it cost or score, without running it: models fitted to a few measurements, with honest intervals."""

from predictors.accuracy import AccuracyPredictor, fit_accuracy_predictor, load_accuracy_predictor
from predictors.errors import PredictorError
from predictors.latency import LatencyPredictor, fit_cost_predictor, fit_latency_predictor, load_predictor
from predictors.prediction import Prediction
from predictors.predictor import CostPredictor
from predictors.scores import Scores, score

__all__ = [
    "AccuracyPredictor",
    "CostPredictor",
    "LatencyPredictor",
    "Prediction",
    "PredictorError",
    "Scores",
    "fit_accuracy_predictor",
    "fit_cost_predictor",
    "fit_latency_predictor",
    "load_accuracy_predictor",
    "load_predictor",
    "score",
]
