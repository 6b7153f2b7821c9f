"""The engine: a training run from its data sets to its model file, whatever the stage."""
