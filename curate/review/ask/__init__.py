"""Asks the user the questions whose answers correct most, and turns the answers into decisions."""
