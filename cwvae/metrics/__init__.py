"""Measures of predicted video: arrays in, per-frame values [N, T] out (FVD: one value per set)."""
