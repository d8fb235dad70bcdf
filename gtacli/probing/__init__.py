"""What a network has learnt, measured without training it."""
