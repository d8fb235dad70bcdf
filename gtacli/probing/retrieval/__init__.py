"""Image retrieval with frozen features: by class, and revisited Oxford and Paris."""
