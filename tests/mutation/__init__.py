"""Mutation run: small faults put into the core modules, to see whether the tests notice them."""
