"""What the Qwen-Omni families share: inputs, towers, the released layout, transformers' own run."""
