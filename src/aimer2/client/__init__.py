"""The researcher's side: simulate a study here, or submit it and watch."""
