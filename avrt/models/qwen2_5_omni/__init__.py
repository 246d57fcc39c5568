"""The Qwen2.5-Omni family: everything that is particular to it."""
