"""Asks the user the questions whose answers probably correct the most errors, and turns the answers into decisions."""
