"""Control of a running mount from outside: status, metrics, flush, retry, unmount."""
