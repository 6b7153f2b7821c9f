"""Everything that uses a trained model."""
