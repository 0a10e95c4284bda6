"""The kernel's side: libfuse 2 by fusepy, libfuse 3 by mfusepy, and the boundary that only errnos pass."""
