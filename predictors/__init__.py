"""What would it cost or score, without running it: models fitted to a few measurements, with honest intervals."""

from predictors.accuracy import AccuracyPredictor, fit_accuracy_predictor, load_accuracy_predictor
from predictors.errors import PredictorError
from predictors.latency import LatencyPredictor, fit_cost_predictor, fit_latency_predictor, load_predictor
from predictors.lookup_table import LookupTablePredictor, from_operator_table, load_lookup_table
from predictors.operator_table import OperatorTable, read_operator_table, write_operator_table
from predictors.prediction import Prediction
from predictors.predictor import CostPredictor
from predictors.scores import Scores, score

__all__ = [
    "AccuracyPredictor",
    "CostPredictor",
    "LatencyPredictor",
    "LookupTablePredictor",
    "OperatorTable",
    "Prediction",
    "PredictorError",
    "Scores",
    "fit_accuracy_predictor",
    "fit_cost_predictor",
    "fit_latency_predictor",
    "from_operator_table",
    "load_accuracy_predictor",
    "load_lookup_table",
    "load_predictor",
    "read_operator_table",
    "score",
    "write_operator_table",
]
