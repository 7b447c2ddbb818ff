"""What an operator sees of the inside: logs, metrics, traces."""
