"""The policy: a model with the three verbs encode, generate and logprobs; loading, saving, parity."""
