"""How a run is shown: the mirror in MLflow and the figures on its page."""
