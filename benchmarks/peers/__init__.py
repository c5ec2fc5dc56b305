"""The simulators of other projects over the same work; each runs in an environment of its own, where AIMER2 is not."""
