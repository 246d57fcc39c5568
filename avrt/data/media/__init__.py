"""What clips are and how files become clips: decoding, colour and orientation, sound, in isolated processes."""
