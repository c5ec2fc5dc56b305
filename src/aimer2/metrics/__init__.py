"""How good a model is, from sums that add up over sites as if their records lay in one table."""
