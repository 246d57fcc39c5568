"""From samples to a model's inputs: the prompt, its limits and targets, and the batch."""
