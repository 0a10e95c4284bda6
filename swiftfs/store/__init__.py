"""Floor 1: Swift. The only place that knows of swiftclient, HTTP and credentials."""
