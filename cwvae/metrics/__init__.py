"""Metrics of predicted video: arrays in, values per frame [N, T] out (FVD: one per set)."""
