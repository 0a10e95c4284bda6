"""System calls on paths and open files. No kernel is needed to run it."""
