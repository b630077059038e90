"""Programs that hold locks and wait for them, to be looked at from outside."""
