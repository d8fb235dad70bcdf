"""Dataset readers, one module per published layout or source."""
