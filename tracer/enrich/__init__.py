"""What is known of an attempt beyond its socket."""
