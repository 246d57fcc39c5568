"""Shards on disk: written from decoded clips, read by sample, checked, fetched from a server, compared."""
