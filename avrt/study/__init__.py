"""`avrt study`: the paper in miniature, from a declaration over its trainings to verdicts with intervals."""
