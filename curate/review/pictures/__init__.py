"""Makes the pictures that the pages of the review show."""
