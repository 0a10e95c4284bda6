"""What goes over the wire to Swift and comes back: a module for each format."""
