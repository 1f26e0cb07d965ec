"""Method: probes, steering directions, and the tuning of both."""
