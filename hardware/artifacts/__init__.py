"""Artifacts: files that a runtime can run, one module a format."""
