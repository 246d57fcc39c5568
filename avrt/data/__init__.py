"""The clip-question record, its shards, and the batches made of them."""
