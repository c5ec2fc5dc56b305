"""The vocabulary of AIMER2; imports nothing else of it."""
