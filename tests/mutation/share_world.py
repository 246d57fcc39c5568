"""Not a test of its own: asks for the `world` fixture once, which writes its clips where all mutants find them."""


def test_the_clips_are_written(world):
    assert (world / "train").is_dir()
