"""Evaluation: from predictions to figures, tables and pages; nothing here needs a model."""
