"""The Gemma 4 family, E2B and E4B: everything that is particular to it."""
