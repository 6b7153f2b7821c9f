"""Data: adapters, preparation, the prepared format, sampling and augmentation."""
