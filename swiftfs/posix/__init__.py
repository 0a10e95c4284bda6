"""What a system call means, over paths and open files. No kernel is needed to run it."""
