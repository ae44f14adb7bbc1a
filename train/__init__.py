"""A data set to a trained model: full finetuning, LoRA, sparse memory, and their objectives."""
