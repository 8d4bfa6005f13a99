"""Contains code that every command needs: files, archives, worker processes, progress, logs, options and versions."""
