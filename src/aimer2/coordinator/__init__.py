"""The coordinator: one process that offers studies to sites, conducts them and keeps their record."""
