"""From an opened picture file to what a viewer shows: RGB, the right way up, on a white background."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def seen(file: Image.Image, notes: list[str]) -> np.ndarray:
    """An opened picture as a viewer shows it, (H, W, 3) uint8.

    The orientation is the only EXIF tag that is used, so that other tags can do no harm. Transparent parts are shown on
    white, as in browsers. Greys of more than 8 bits are scaled, not clipped.

    Args:
        file: The picture, opened by Pillow.
        notes: Gets a note for each repair.
    """
    file.load()
    turn = None
    try:
        turn = _TURNS.get(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged tags raise anything; the pixels do not depend on them
        notes.append("its EXIF cannot be read, so it is not turned")
    else:
        try:
            file.getexif().tobytes()
        except Exception:
            notes.append("its EXIF is damaged; only its orientation is used")
    picture = _on_white(_eight_bits(file, notes), notes)
    if turn is not None:
        picture = picture.transpose(turn)
    return np.array(picture)


def _eight_bits(file: Image.Image, notes: list[str]) -> Image.Image:
    """The same picture with at most 8 bits a channel."""
    if not (file.mode.startswith("I") or file.mode == "F"):
        return file
    values: Any = np.asarray(file).astype(np.float64)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    if file.mode.startswith("I") and low >= 0 and 255 < high <= 65535:
        low, high = 0.0, 65535.0
        notes.append("16-bit greys scaled to 8 bits")
    elif file.mode.startswith("I") and low >= 0 and high <= 255:
        low, high = (0.0, 65535.0) if file.mode.startswith("I;16") else (0.0, 255.0)
    elif file.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif file.mode == "F" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    else:
        notes.append(f"greys from {low:g} to {high:g} scaled to black and white")
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0) * 255
    return Image.fromarray(np.clip(np.round(scaled), 0, 255).astype(np.uint8))


def _on_white(file: Image.Image, notes: list[str]) -> Image.Image:
    """The picture in RGB; transparent parts are shown on white."""
    if not (file.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in file.info):
        return _to_rgb(file)
    clear = file.convert("RGBA")
    if clear.getchannel("A").getextrema()[0] == 255:
        return clear.convert("RGB")
    notes.append("transparent parts shown on white")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _to_rgb(file: Image.Image) -> Image.Image:
    """The picture in sRGB, converted by its colour profile if it has a valid one."""
    profile = file.info.get("icc_profile")
    if profile and file.mode in ("RGB", "CMYK", "LAB"):
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if done := ImageCms.profileToProfile(file, own, ImageCms.createProfile("sRGB"), outputMode="RGB"):
                return done
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a damaged profile: convert without it
    if file.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(file, lab, srgb, outputMode="RGB") or file
    return file.convert("RGB")
