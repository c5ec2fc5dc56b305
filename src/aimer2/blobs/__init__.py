"""Content-addressed bytes: immutable, named by their SHA-256, checked on arrival."""
