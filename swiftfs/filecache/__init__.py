"""What files hold: a sparse local file for each version, parallel reads, segment uploads."""
