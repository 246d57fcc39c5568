"""The algorithms in plain PyTorch: supervised fine-tuning and GRPO, each step readable from top to bottom."""
