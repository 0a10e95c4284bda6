"""What tests share: fixtures, stores, mounts, programs."""
