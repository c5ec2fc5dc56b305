"""Federated statistics: one method per file, under the same protocol as training."""
