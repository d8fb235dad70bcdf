"""Streams of images in shards, read from the first to the last byte without an index."""
