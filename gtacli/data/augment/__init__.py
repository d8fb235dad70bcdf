"""Training views of images: crops, flips, policies, erasing; on the CPU or in batches on a GPU."""
