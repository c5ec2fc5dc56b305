"""What a coordinator keeps: tables, and named transactions on them. The same code on SQLite and PostgreSQL."""
