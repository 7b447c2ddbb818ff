"""Security: which addresses are open, secrets, masking, tokens."""
