"""From shards to batches: order, plans, mixtures, the resumable stream and the Lightning data module."""
