"""Where a hospital's data come from: each source becomes one table, and each refresh of it one hashed snapshot."""
