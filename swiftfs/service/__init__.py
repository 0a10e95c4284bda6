"""The life of a mount's process."""
