"""Everything with weights: the omni student, its features, positions and export."""
