"""What limits what a sum tells of one patient: clipping, noise, its accounting, and the rules for telling counts."""
