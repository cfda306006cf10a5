"""How it is run and shown: recipes, data sets, Ray, MLflow, the stages in order, the command line."""
