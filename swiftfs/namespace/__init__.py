"""Names and attributes: listings become entries, are cached, and local changes override them."""
