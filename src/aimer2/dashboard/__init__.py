"""The coordinator's pages: a client of its HTTP API, in the same process and behind the same port."""
