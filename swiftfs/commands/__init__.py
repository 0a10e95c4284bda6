"""Commands about an account that need no mount, a module each."""
