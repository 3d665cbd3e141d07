"""Trains the built-in models from a seed: `python -m study.builtin.train`."""
