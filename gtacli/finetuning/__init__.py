"""Fine-tuning of a pre-trained ViT with regularizers that keep it close to its source."""
