"""What `restore` writes beside the photos: the log and the contact sheet."""
