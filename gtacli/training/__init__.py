"""The training engine: one loop, the contract of its tasks, and the frame of a run."""
