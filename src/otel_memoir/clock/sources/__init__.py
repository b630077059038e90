"""Whom to ask for the time: the system's own clock, chronyd, NTP servers, HTTP, peers."""
