"""Benchmarks: `python -m experiments.benchmarks.NAME --out FILE.json`; each is a module of this folder."""
