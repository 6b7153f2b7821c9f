"""The two adaptation stages and the loop they share."""
