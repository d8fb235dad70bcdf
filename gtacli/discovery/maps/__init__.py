"""The cache of object maps: found once, kept by the content of their images, read in training.

    CACHE/
      manifest.json     what the maps are: network, back-end, options, sizes, versions (`kind`)
      maps/HASH.npy     rows of (digest of an image file's bytes, map as uint8 (gh, gw))
      seen/HASH.npy     rows of (sighting of an image file, its digest): spares reading it again
      journal-I-of-N    maps of an unfinished run that are in no file yet

A file's name is the hash of its bytes, so that a damaged one is known by its name. `maps/` depends
on the images alone and may be copied anywhere; `seen/` speaks of this machine's files and may be
deleted. All are plain numpy files: `np.load(file, mmap_mode="r")["map"]`.
"""

from gtacli.discovery.maps.reader import MapCache

__all__ = ["MapCache"]
