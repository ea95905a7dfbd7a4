"""What an observation means, and what to do about it."""
