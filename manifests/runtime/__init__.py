"""What every command needs at run time: files, archives, images, worker processes, progress, logs and versions."""
