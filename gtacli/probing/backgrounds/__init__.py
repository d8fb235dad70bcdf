"""Background robustness: images with exchanged backgrounds (ImageNet-9 protocol)."""
