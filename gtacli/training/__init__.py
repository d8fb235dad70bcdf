"""Training: one loop, the fine-tuning task, the run folder and its state."""
