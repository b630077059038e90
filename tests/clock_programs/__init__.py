"""Programs with a clock, for tests that run them in another process, time or namespace."""
