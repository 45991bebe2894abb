"""Faster implementations of the model's functions, from the same layers' weights."""
