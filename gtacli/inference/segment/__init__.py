"""Object masks of images at their own size, and their scores against ground truth."""
