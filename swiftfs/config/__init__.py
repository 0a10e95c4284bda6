"""Options and where they come from, credentials, prices, the cache folder."""
