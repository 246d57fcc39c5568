"""Sampling answers from a student."""
