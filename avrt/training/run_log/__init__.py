"""What a training run writes down: one interface, `run_log.RunLog`, and behind it an adapter for each logger."""
