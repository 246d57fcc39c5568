"""Cards by name, with what their data sheets say."""

from __future__ import annotations

from dataclasses import dataclass

from avrt.errors import AvrtError
from avrt.text import did_you_mean

GIB = 2**30
DEFAULT_CARD = "H100"


@dataclass(frozen=True)
class Card:
    """What a data sheet says of a card.

    Attributes:
        name: What it goes by.
        memory: Bytes, as the driver reports them.
        operations: Dense bfloat16 operations per second, accumulated in float32.
        bandwidth: Bytes per second from its memory.
        host: Bytes per second and direction to the host's memory.
        link: Bytes per second and direction to its neighbours.
        capability: Its compute capability.
    """

    name: str
    memory: float
    operations: float
    bandwidth: float
    host: float
    link: float
    capability: tuple[int, int] = (9, 0)


CARDS = {
    card.name: card
    for card in (
        Card("H100", 79.1 * GIB, 989e12, 3.35e12, 64e9, 450e9),  # SXM, 80 GB
        Card("H100-PCIe", 79.1 * GIB, 756e12, 2.0e12, 64e9, 64e9),
        Card("H200", 139.8 * GIB, 989e12, 4.8e12, 64e9, 450e9),
        Card("B200", 178.3 * GIB, 2250e12, 7.7e12, 64e9, 900e9, (10, 0)),
        Card("A100-80GB", 79.1 * GIB, 312e12, 2.04e12, 32e9, 300e9, (8, 0)),  # SXM
        Card("A100-40GB", 39.4 * GIB, 312e12, 1.56e12, 32e9, 300e9, (8, 0)),
        Card("L40S", 44.4 * GIB, 362e12, 0.864e12, 32e9, 32e9, (8, 9)),
        Card("A6000", 47.4 * GIB, 155e12, 0.768e12, 32e9, 32e9, (8, 6)),
        Card("RTX4090", 23.5 * GIB, 165e12, 1.008e12, 32e9, 32e9, (8, 9)),
    )
}


def find_card(name: str) -> Card:
    """A card by its name, in any case.

    Raises:
        AvrtError: If it is not known; the message names those that are.
    """
    for card in CARDS.values():
        if card.name.lower() == name.lower().replace(" ", "-"):
            return card
    nearest = did_you_mean(name, CARDS)
    known = f"--plan takes {', '.join(CARDS)}"
    raise AvrtError("no such card", where=name, remedy=f"{nearest} {known}" if nearest else known)
