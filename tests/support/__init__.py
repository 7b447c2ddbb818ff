"""Pieces that several test folders use."""
