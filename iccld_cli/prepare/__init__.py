"""Raw data into prepared data sets: one adapter a raw data set, checks, and a folder that is whole or absent."""
