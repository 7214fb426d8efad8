"""What stage train is made of: where a run begins, its phases, its curve, and its outcome."""
