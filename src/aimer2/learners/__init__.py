"""Machine-learning frameworks behind one protocol (`aimer2.core.protocols.Learner`): one framework per file."""
