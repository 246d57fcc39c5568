"""AVRT: audio-visual reasoning transfer. Train omni models to reason over what they see and hear."""

__version__ = "0.1.0"
