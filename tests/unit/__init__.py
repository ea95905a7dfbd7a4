"""Tests that need neither root nor a network; nothing in them sleeps."""
