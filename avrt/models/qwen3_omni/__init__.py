"""Qwen3-Omni: the thinker as a family."""
