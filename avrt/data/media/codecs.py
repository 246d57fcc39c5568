"""The two codecs of a shard: JPEG for frames (torchvision), FLAC for sound (soundfile). Their input is not trusted."""

from __future__ import annotations

import io

import soundfile
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from avrt.data.media.clip import MAX_AUDIO_SECONDS, MAX_PIXELS, SAMPLE_RATE
from avrt.errors import BadSampleError


def to_jpeg(picture: Tensor, quality: int = 95) -> bytes:
    """Compress a (3, H, W) uint8 picture."""
    encoded: Tensor = encode_jpeg(picture.contiguous(), quality)
    return encoded.numpy().tobytes()


def from_jpeg(data: bytes) -> Tensor:
    """Decompress to (3, H, W) uint8.

    Raises:
        BadSampleError: If the bytes are not a JPEG, or have more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:  # reads only the size
            width, height = header.size
        if width * height > MAX_PIXELS:
            raise BadSampleError(f"a picture of {width}x{height}, more than {MAX_PIXELS:,} pixels")
        picture: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        return picture
    except Image.DecompressionBombError as error:
        raise BadSampleError(str(error)) from None
    except (RuntimeError, ValueError, OSError, SyntaxError) as error:
        raise BadSampleError(f"not a JPEG: {error}") from None


def to_flac(audio: Tensor) -> bytes:
    """Compress (S,) float32 16 kHz sound to 16-bit FLAC; values beyond full scale are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.clamp(-1.0, 1.0).numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def from_flac(data: bytes) -> Tensor:
    """Decompress to (S,) float32 at 16 kHz.

    Raises:
        BadSampleError: If the bytes are not a 16 kHz mono FLAC, or last longer than `MAX_AUDIO_SECONDS`: a FLAC of a
            few kilobytes can hold hours of silence.
    """
    limit = int(MAX_AUDIO_SECONDS * SAMPLE_RATE)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.samplerate != SAMPLE_RATE or file.channels != 1:
                raise BadSampleError(
                    f"sound is {file.samplerate} Hz with {file.channels} channels, needs {SAMPLE_RATE} Hz mono"
                )
            if file.frames > limit:
                raise BadSampleError(f"more than {MAX_AUDIO_SECONDS:.0f} s of sound")
            sound = file.read(file.frames, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadSampleError(f"not a FLAC: {error}") from None
    return torch.from_numpy(sound)
