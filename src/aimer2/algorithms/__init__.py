"""Federated training methods: one published method per file, the site's half and the coordinator's half in it."""
