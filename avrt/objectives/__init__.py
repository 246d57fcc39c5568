"""Losses, advantages and rewards as pure functions on tensors and text."""
