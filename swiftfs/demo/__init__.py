"""A real OpenStack Swift (PyPI `swift`, extra `[demo]`) on loopback, for the demo and the tests."""
