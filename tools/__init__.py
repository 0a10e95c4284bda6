"""Programs for those who work on swiftfs; none of it is installed."""
