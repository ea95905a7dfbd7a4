"""The live screen. Everything but `app` and `terminal` is pure, and knows nothing of Textual."""
