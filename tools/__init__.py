"""Programs for developers of swiftfs; they are not installed."""
