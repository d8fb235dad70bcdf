"""Image files to pixels: finding, decoding, sizes and preprocessing."""
