"""What happened, so that nobody can change it afterwards unseen: a hash-chained, signed log and its offline verification."""
