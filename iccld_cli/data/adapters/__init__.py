"""One file a raw data set."""
