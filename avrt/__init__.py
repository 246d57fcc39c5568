"""AVRT: audio-visual reasoning transfer. Train omni models to reason over what they see and hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avrt.library import RewardedResponse, Student, load
    from avrt.policy.input_settings import InputSettings

__all__ = ["InputSettings", "RewardedResponse", "Student", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The library, imported when it is first asked for, so that `avrt --help` pays for none."""
    if name not in __all__:
        raise AttributeError(f"module 'avrt' has no attribute {name!r}")
    from avrt import library

    return getattr(library, name)
