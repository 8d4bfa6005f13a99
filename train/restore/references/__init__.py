"""The references of a restoration: reading the photos, finding the person, choosing the references of each face."""
