"""Asks the user the questions whose answers change most: the queue, its page, and the decisions of the answers."""
