"""Reads files on web servers, and reads and writes files in object stores."""
