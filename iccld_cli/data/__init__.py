"""Prepared data sets into batches: reading, sampling, cropping."""
