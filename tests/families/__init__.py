"""What counts as proof for a model family: the same tests for each, on its nano preset with random weights."""
