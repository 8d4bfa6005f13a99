"""What all pages of the review share: access, templates, and the answers of the server."""
