"""What the user brings: files and archives, consent, labels, and faces that opted out."""
