"""Loss functions: pure functions that never log and know no loop."""
