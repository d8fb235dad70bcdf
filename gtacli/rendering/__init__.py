"""Pictures of what the networks see and find."""
