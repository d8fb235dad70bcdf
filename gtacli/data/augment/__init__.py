"""Training views of images: crops, flips, color, on the CPU or batched on the GPU."""
