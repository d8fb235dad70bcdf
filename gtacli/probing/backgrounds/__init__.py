"""Background robustness: images with swapped backgrounds (ImageNet-9 protocol)."""
