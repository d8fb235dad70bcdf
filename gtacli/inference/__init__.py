"""Running networks over streams of images: predictions, objects, attention maps, masks."""
