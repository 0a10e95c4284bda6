"""Tools that work on a server or a cache folder without a mount."""
