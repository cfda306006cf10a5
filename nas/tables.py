"""The columns of a run's append-only tables.

`accuracy` is the value of `metric`, a fraction; latencies are milliseconds (NaN where none was measured), times UTC ISO
text.
"""

import pyarrow as pa

UNMEASURED = "unmeasured"
"""Provenance of a verified candidate whose device was dead: it has no latency."""

PREDICTED = "predicted"
"""Provenance of a verified candidate that was not to be measured: its latency is the predicted one."""

NO_TRIAL, ADDED_TRIAL = -1, -2
"""Trial numbers of what no study proposed: fine-tuned candidates, and architectures that somebody added."""

# What is evaluated, measured and exported: the key that every table shares.
_CANDIDATE = [
    ("candidate_id", pa.string()),
    ("arch_id", pa.string()),
    ("architecture", pa.string()),
    ("weights", pa.string()),
    ("weights_kind", pa.string()),
    ("precision", pa.string()),
]
_ACCURACY = [
    ("split", pa.string()),
    ("metric", pa.string()),
    ("accuracy", pa.float64()),
    ("accuracy_low", pa.float64()),
    ("accuracy_high", pa.float64()),
    ("num_correct", pa.int64()),
    ("num_images", pa.int64()),
]
_PREDICTED = [
    ("device_id", pa.string()),
    ("latency_predicted_ms", pa.float64()),
    ("latency_predicted_low_ms", pa.float64()),
    ("latency_predicted_high_ms", pa.float64()),
    ("in_range", pa.bool_()),
]
_COUNTS = [("macs", pa.int64()), ("params", pa.int64())]

EVALUATION_SCHEMA = pa.schema(
    [
        *_CANDIDATE,
        *_ACCURACY,
        *_PREDICTED,
        *_COUNTS,
        ("trial_number", pa.int64()),
        ("seconds", pa.float64()),
        ("utc_time", pa.string()),
    ]
)

# Beside the evaluations, not among them: no front, refinement or verification can take them for whole ones.
STOPPED_SCHEMA = pa.schema(
    [
        *_CANDIDATE,  # a fine-tuning that was stopped: the inherited candidate that it began with
        *_ACCURACY,  # on the images that were judged
        ("accuracy_estimated", pa.float64()),  # on the whole split, what the study was told
        ("rival", pa.string()),  # architecture that is no slower and stays more accurate
        ("of_images", pa.int64()),
        ("epoch", pa.int64()),  # after which a fine-tuning was stopped, 0 if it is none
        ("of_epochs", pa.int64()),
        *_PREDICTED,
        *_COUNTS,
        ("trial_number", pa.int64()),
        ("seconds", pa.float64()),
        ("utc_time", pa.string()),
    ]
)

# Only of searches with early stopping: images are compared one by one.
ANSWER_SCHEMA = pa.schema([("candidate_id", pa.string()), ("answers", pa.binary())])

VERIFICATION_SCHEMA = pa.schema(
    [
        *_CANDIDATE,
        *_ACCURACY,
        ("accuracy_search", pa.float64()),
        ("accuracy_inherited", pa.float64()),
        *_PREDICTED,
        ("latency_ms", pa.float64()),
        ("latency_low_ms", pa.float64()),
        ("latency_high_ms", pa.float64()),
        ("provenance", pa.string()),
        ("suspect", pa.bool_()),
        ("measurement_id", pa.string()),
        *_COUNTS,
        ("utc_time", pa.string()),
    ]
)

SESSION_SCHEMA = pa.schema(
    [
        ("session_id", pa.string()),
        ("device_id", pa.string()),
        ("seconds", pa.float64()),  # that the unit was taken, sessions included that had to be repeated
        ("utc_time", pa.string()),
    ]
)

STAGE_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("device_id", pa.string()),
        ("seconds", pa.float64()),  # by the wall clock
        ("cores", pa.int64()),  # that its workers may have kept busy
        ("gpus", pa.int64()),
        ("joules", pa.float64()),  # as the processor counted; null where it does not
        ("ended", pa.string()),  # done, failed, interrupted or killed
        ("utc_time", pa.string()),
    ]
)
