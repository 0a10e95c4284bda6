"""Simulation of the file system: random histories of programs, faults and kills, each made from a seed."""
