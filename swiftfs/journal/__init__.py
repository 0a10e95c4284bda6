"""Floor 2: what is promised. Every change of Swift is an intent, and is executed here."""
