"""Floor 2: what files hold. One sparse local file a version, parallel reads, segment uploads."""
