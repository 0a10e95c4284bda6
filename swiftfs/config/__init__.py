"""What is asked for: options and where they come from, credentials, prices."""
