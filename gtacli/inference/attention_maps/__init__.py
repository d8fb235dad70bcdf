"""What a model looks at in images, as files: the stream behind `gta attention-map`."""
