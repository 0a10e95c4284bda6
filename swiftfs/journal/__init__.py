"""The journal: every change of Swift is recorded here until it is carried out."""
