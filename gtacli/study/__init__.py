"""Studies: a grid of runs of one command, on any executor, and the tables and figures of it."""
