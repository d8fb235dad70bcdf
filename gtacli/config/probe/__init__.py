"""The configs of `gta probe`, one file per command."""
