"""What others read: one file a format, over what `choose` picks and `folder` writes whole or not at all."""
