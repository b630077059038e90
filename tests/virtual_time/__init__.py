"""Clocks and networks in virtual time: hours of calibration in less than a second."""
