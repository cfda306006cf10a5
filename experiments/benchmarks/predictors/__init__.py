"""How right predictors are from few measurements: `python -m experiments.benchmarks.predictors --help`."""
