"""Tests of `taskforge doctor`."""
