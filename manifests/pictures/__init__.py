"""The files of pictures: the one decoder, the PNG and JPEG encoders, colour profiles, metadata, untrusted files."""
