"""Where examples come from: every module of this folder with a `SOURCE` is a data set that a recipe can name."""
