"""The formats of requests and answers: a module for each."""
