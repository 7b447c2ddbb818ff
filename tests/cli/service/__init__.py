"""Tests of `taskforge service`."""
