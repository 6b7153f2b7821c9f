"""Noise schedule and sampler."""
