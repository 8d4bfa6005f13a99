"""Code that many commands need: files, archives, worker processes, progress, logs, options and versions."""
