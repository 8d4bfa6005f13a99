"""Contains code that every command needs: files, archives, images, worker processes, progress, logs and versions."""
