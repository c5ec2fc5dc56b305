"""Ways to carry tasks to sites and replies back."""
