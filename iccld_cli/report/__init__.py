"""Pages, plots and overlays for people to look at."""
