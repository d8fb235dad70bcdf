"""The cache of object maps, computed once, keyed by the content of the images, read in training.

    CACHE/
      manifest.json     properties of the maps: network, back-end, options, sizes, versions
      maps/HASH.npy     rows of (digest of an image file's bytes, map as uint8 (gh, gw))
      seen/HASH.npy     rows of (stamp of an image file, its digest), which save reading the image
      shards/HASH.npy   the finished shards of streams
      index/            copies of the digests in maps/ and seen/, sorted, once there are many files
      journal-I-of-N    maps of an unfinished run that are not yet in a file

A file's name is the hash of its bytes, so a damaged file does not match its name. `maps/` depends
on the images only and can be copied to other machines; `seen/` describes files of this machine; it
and `index/` can be deleted. All but the index are plain numpy files:
`np.load(file, mmap_mode="r")["map"]`.
"""

from gtacli.discovery.maps.reader import MapCache

__all__ = ["MapCache"]
