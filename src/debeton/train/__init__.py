"""One run: phases, the loop, objectives, metrics and results."""
