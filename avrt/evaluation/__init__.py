"""Evaluation: asking a policy (`runner`), and from predictions to figures, tables and pages."""
