"""What a mount is asked from outside: status, metrics, orders, unmounting."""
