"""What somebody who sees an update can find out about the patients behind it: attacks on a study's own numbers, for tests and for a hospital."""
