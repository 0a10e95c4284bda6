"""A machine that explores the file system: histories of programs, faults and kills, each made from a seed."""
