"""Reasoning traces (stage 0 of AVRT): single-modality teachers, a merger, a filter, and the record of every call."""
