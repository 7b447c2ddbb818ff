"""The HTTP API: one table of routes, one table of errors, and the gate that every request passes."""
