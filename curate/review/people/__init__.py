"""The pages of people and faces, and the acts of the user."""
