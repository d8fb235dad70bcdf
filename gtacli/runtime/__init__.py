"""The machine and the run: devices, processes, run folders, atomic files, the cache, threads."""
