"""Versioned documents and codecs: bytes and types, never sockets."""
