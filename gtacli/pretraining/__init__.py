"""Pre-training with attention-guided masked autoencoders (AttG-MAE, arXiv 2402.15172)."""
