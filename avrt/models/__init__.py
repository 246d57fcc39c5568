"""Model families, and what they share: decoder, attention, packing, teacher forcing, features of clips."""
