"""Tests that run the program as a user would, against the real kernel."""
