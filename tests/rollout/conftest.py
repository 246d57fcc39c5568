"""Prompts for the engines: those of one length hide what padding does, so there are also four of different lengths."""

import pytest


@pytest.fixture
def prompts(nano, batch):
    """Four questions on video with sound; all have the same number of tokens."""
    return nano.encode(batch)


@pytest.fixture
def uneven(nano, mixed):
    """Prompts of four lengths."""
    return nano.encode(mixed)
