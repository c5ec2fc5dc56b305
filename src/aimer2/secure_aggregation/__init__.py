"""Sums over sites that nobody sees the parts of: masked updates, and the keys that take the masks away from the sum alone."""
