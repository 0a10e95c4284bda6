"""Cached files: a sparse local file for each version, parallel downloads, segment uploads."""
