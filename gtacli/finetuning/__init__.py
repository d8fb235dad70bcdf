"""Fine-tuning a pre-trained ViT on few labels, held near its source by regularizers."""
