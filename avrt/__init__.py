"""AVRT: audio-visual reasoning transfer. Train omni models to reason over what they see and hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avrt.library import ask, load_clip, load_policy

__all__ = ["ask", "load_clip", "load_policy"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The library's functions, imported when they are first asked for, so that `avrt --help` pays for none."""
    if name not in __all__:
        raise AttributeError(f"module 'avrt' has no attribute {name!r}")
    from avrt import library

    return getattr(library, name)
