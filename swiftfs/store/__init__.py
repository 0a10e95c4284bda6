"""The Swift client: the only package that knows swiftclient, HTTP and credentials."""
