"""Recipes: one module per dataset, from its raw layout to questions with their media files."""
