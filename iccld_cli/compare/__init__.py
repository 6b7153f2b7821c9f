"""Many trainings and models in one table: what `iccld compare` does, see `compare.run`."""
