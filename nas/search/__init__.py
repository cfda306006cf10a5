"""The search: Optuna proposes, a pool of workers judges, tables remember."""
