"""Records the decisions of people about who is in a photo, and updates identities, splits and pairs."""
