"""The ground floor: devices, processes, run folders, caches, threads; no images, no models."""
