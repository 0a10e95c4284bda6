"""What exists. Listings become entries, are cached, and carry our own changes on top."""
