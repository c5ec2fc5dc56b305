"""The coordinator's HTTP API, version 1: one module per kind of caller."""
